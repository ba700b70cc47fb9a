"""Kernels that turn coefficients between atoms and edge frames.

In all three, channels are what threads lie along: rows of channels are contiguous in memory, and every thread
then needs the same few numbers of a Wigner matrix, which come from the cache. Degrees and orders are known when
a kernel is compiled (LMAX, MMAX), atoms and edges are not: other batches need no other code. Only what an
edge's or atom's numbers begin at is in 64 bits; places within are far below 2**31.

A tile has a power of two of rows, so a degree's 2 min(l, MMAX) + 1 rows and 2 l + 1 columns are padded; what
is beyond is masked in every load and store.
"""

# Triton 3.0's interpreter takes annotations for objects, so they are not postponed here.

import triton
import triton.language as tl


@triton.jit
def _turn_degree(
    out, x, wigner, row, offset, first, c, there, C,
    DEGREE: tl.constexpr, MMAX: tl.constexpr, BLOCK: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Turn one degree of an atom's signal into the frame of an edge."""
    ROWS: tl.constexpr = 2 * DEGREE + 1 if DEGREE < MMAX else 2 * MMAX + 1
    COLUMNS: tl.constexpr = 2 * DEGREE + 1
    r = tl.arange(0, triton.next_power_of_2(ROWS))
    turned = tl.zeros((triton.next_power_of_2(ROWS), BLOCK), ACC)
    for k in tl.static_range(COLUMNS):
        signal = tl.load(x + (DEGREE * DEGREE + k) * C + c[None, :], mask=there[None, :], other=0.0).to(ACC)
        factors = tl.load(wigner + offset + r * COLUMNS + k, mask=r < ROWS, other=0.0).to(ACC)
        turned += factors[:, None] * signal
    places = tl.load(row + first + r, mask=r < ROWS, other=0).to(tl.int32) * C
    here = (r < ROWS)[:, None] & there[None, :]
    tl.store(out + places[:, None] + c[None, :], turned.to(out.dtype.element_ty), mask=here)


@triton.jit
def node_to_edge(
    x, wigner, atom, row, out, stride, C,
    LMAX: tl.constexpr, MMAX: tl.constexpr, KEPT: tl.constexpr, PACKED: tl.constexpr, ENDS: tl.constexpr,
    BLOCK: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """A program has one end of an edge: it reads each row of its atom once, and has all degrees at hand."""
    edge, end = tl.program_id(0).to(tl.int64), tl.program_id(1)
    c = tl.program_id(2) * BLOCK + tl.arange(0, BLOCK)
    x += tl.load(atom + edge * ENDS + end) * stride
    wigner += edge * PACKED
    out += edge * ENDS * KEPT * C
    row += end * KEPT
    offset = 0  # of a degree's matrix
    first = 0  # of its kept coefficients
    for degree in tl.static_range(LMAX + 1):
        _turn_degree(out, x, wigner, row, offset, first, c, c < C, C, degree, MMAX, BLOCK, ACC)
        rows = 2 * degree + 1 if degree < MMAX else 2 * MMAX + 1
        offset += rows * (2 * degree + 1)
        first += rows


@triton.jit
def _sum_degree(
    sums, v, wigner, row, order, begin, end, offset, first, c, there, C,
    DEGREE: tl.constexpr, MMAX: tl.constexpr, KEPT: tl.constexpr, PACKED: tl.constexpr, ENDS: tl.constexpr,
    ADD: tl.constexpr, AT_ONCE: tl.constexpr, BLOCK: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Turn one degree of an atom's edges back, and sum them."""
    ROWS: tl.constexpr = 2 * DEGREE + 1 if DEGREE < MMAX else 2 * MMAX + 1
    COLUMNS: tl.constexpr = 2 * DEGREE + 1
    k = tl.arange(0, triton.next_power_of_2(COLUMNS))
    total = tl.zeros((triton.next_power_of_2(COLUMNS), BLOCK), ACC)
    for i in range(begin, end, AT_ONCE):
        for ahead in tl.static_range(AT_ONCE):
            inside = i + ahead < end
            place = i + ahead
            if order is not None:
                place = tl.load(order + i + ahead, mask=inside, other=0)
            edge = place // ENDS
            rows = row + (place % ENDS) * KEPT + first
            for r in tl.static_range(ROWS):
                at = edge * (ENDS * KEPT) + tl.load(rows + r)
                # Both are 0 beyond the last edge: 0 times what is no number would be none.
                value = tl.load(v + at * C + c[None, :], mask=there[None, :] & inside, other=0.0).to(ACC)
                factors = tl.load(
                    wigner + edge * PACKED + offset + r * COLUMNS + k, mask=(k < COLUMNS) & inside, other=0.0
                )
                total += factors.to(ACC)[:, None] * value
    to = sums + ((DEGREE * DEGREE + k) * C)[:, None] + c[None, :]
    here = (k < COLUMNS)[:, None] & there[None, :]
    if ADD:
        total += tl.load(to, mask=here, other=0.0).to(ACC)
    tl.store(to, total.to(sums.dtype.element_ty), mask=here)


@triton.jit
def edge_to_node(
    sums, v, wigner, row, order, starts, stride, C,
    LMAX: tl.constexpr, MMAX: tl.constexpr, KEPT: tl.constexpr, PACKED: tl.constexpr, ENDS: tl.constexpr,
    ADD: tl.constexpr, AT_ONCE: tl.constexpr, BLOCK: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """A program has an atom and a degree, and sums over the atom's edges in their order.

    A degree's coefficients are read by its program alone, so splitting an atom's work by degree costs no memory
    traffic; all degrees' sums at once would not fit into registers. The largest degrees begin first, so that
    what runs last is short. To hide the time that memory takes, AT_ONCE edges are read before any is waited for.
    """
    atom = tl.program_id(0).to(tl.int64)
    begin, end = tl.load(starts + atom).to(tl.int64), tl.load(starts + atom + 1).to(tl.int64)
    if ADD:
        if begin == end:
            return
    c = tl.program_id(2) * BLOCK + tl.arange(0, BLOCK)
    sums += atom * stride
    offset = 0
    first = 0
    for degree in tl.static_range(LMAX + 1):
        if tl.program_id(1) == LMAX - degree:
            _sum_degree(
                sums, v, wigner, row, order, begin, end, offset, first, c, c < C, C,
                degree, MMAX, KEPT, PACKED, ENDS, ADD, AT_ONCE, BLOCK, ACC,
            )  # fmt: skip
        rows = 2 * degree + 1 if degree < MMAX else 2 * MMAX + 1
        offset += rows * (2 * degree + 1)
        first += rows


@triton.jit
def _gradient_of_degree(
    out, v, x0, x1, row, offset, first, c, there, C,
    DEGREE: tl.constexpr, MMAX: tl.constexpr, KEPT: tl.constexpr, ENDS: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Multiply one degree of an edge's coefficients by those of its atoms."""
    ROWS: tl.constexpr = 2 * DEGREE + 1 if DEGREE < MMAX else 2 * MMAX + 1
    COLUMNS: tl.constexpr = 2 * DEGREE + 1
    r = tl.arange(0, triton.next_power_of_2(ROWS))
    here = (r < ROWS)[:, None] & there[None, :]
    places = tl.load(row + first + r, mask=r < ROWS, other=0).to(tl.int32) * C
    v0 = tl.load(v + places[:, None] + c[None, :], mask=here, other=0.0).to(ACC)
    if ENDS == 2:
        places = tl.load(row + KEPT + first + r, mask=r < ROWS, other=0).to(tl.int32) * C
        v1 = tl.load(v + places[:, None] + c[None, :], mask=here, other=0.0).to(ACC)
    for k in tl.static_range(COLUMNS):
        at = (DEGREE * DEGREE + k) * C + c[None, :]
        products = v0 * tl.load(x0 + at, mask=there[None, :], other=0.0).to(ACC)
        if ENDS == 2:
            products += v1 * tl.load(x1 + at, mask=there[None, :], other=0.0).to(ACC)
        summed = tl.sum(products, 1).to(out.dtype.element_ty)
        tl.store(out + offset + r * COLUMNS + k, summed, mask=r < ROWS)


@triton.jit
def wigner_gradient(
    v, x, atom, row, out, stride, C,
    LMAX: tl.constexpr, MMAX: tl.constexpr, KEPT: tl.constexpr, PACKED: tl.constexpr, ENDS: tl.constexpr,
    BLOCK: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """A program has an edge with all channels; products of both ends are added before threads share sums."""
    edge = tl.program_id(0).to(tl.int64)
    c = tl.arange(0, BLOCK)
    x0 = x + tl.load(atom + edge * ENDS) * stride
    x1 = x + tl.load(atom + edge * ENDS + ENDS - 1) * stride
    v += edge * ENDS * KEPT * C
    out += edge * PACKED
    offset = 0
    first = 0
    for degree in tl.static_range(LMAX + 1):
        _gradient_of_degree(
            out, v, x0, x1, row, offset, first, c, c < C, C, degree, MMAX, KEPT, ENDS, ACC
        )  # fmt: skip
        rows = 2 * degree + 1 if degree < MMAX else 2 * MMAX + 1
        offset += rows * (2 * degree + 1)
        first += rows
