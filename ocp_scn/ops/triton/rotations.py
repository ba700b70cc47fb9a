"""Kernels that turn coefficients between atoms and edge frames.

In all three, threads lie along channels: rows of channels are contiguous in memory, and every thread then
needs the same few numbers of a Wigner matrix, which come from the cache. Degrees and orders are known when a
kernel is compiled (LMAX, MMAX), atoms and edges are not: other batches need no other code. Only what an
edge's or an atom's numbers begin at is in 64 bits; places within are far below 2**31.

A tile has a power of two of rows, so the 2 min(l, MMAX) + 1 rows and 2 l + 1 columns of a degree are padded,
and masked in every load and store. Rows of channels are loaded as tiles of one row ([None, :]): threads then
have the same channels of them as of larger tiles, and nothing goes through shared memory.
"""

# Triton 3.0's interpreter takes annotations for objects, so they are not postponed here.

import triton
import triton.language as tl


@triton.jit
def _row(row, s, edge, edges, mask):
    """Return the row of coefficients s of one end of an edge: before * edges + edge * size + which."""
    before = tl.load(row + 3 * s, mask=mask, other=0)
    size = tl.load(row + 3 * s + 1, mask=mask, other=0)
    return before * edges + edge * size + tl.load(row + 3 * s + 2, mask=mask, other=0)


@triton.jit
def _turn_degree(
    out, x, wigner, row, edge, edges, offset, first, c, there, C,
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
    places = _row(row, first + r, edge, edges, r < ROWS) * C
    here = (r < ROWS)[:, None] & there[None, :]
    tl.store(out + places[:, None] + c[None, :], turned.to(out.dtype.element_ty), mask=here)


@triton.jit(do_not_specialize=["edges"])
def node_to_edge(
    x, wigner, atom, row, out, edges, stride, C,
    LMAX: tl.constexpr, MMAX: tl.constexpr, KEPT: tl.constexpr, PACKED: tl.constexpr, ENDS: tl.constexpr,
    BLOCK: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """A program has one end of an edge: it reads each row of its atom once, and has all degrees at hand."""
    edge, end = tl.program_id(0).to(tl.int64), tl.program_id(1)
    c = tl.program_id(2) * BLOCK + tl.arange(0, BLOCK)
    x += tl.load(atom + edge * ENDS + end).to(tl.int64) * stride
    wigner += edge * PACKED
    row += end * KEPT * 3
    offset = 0  # of a degree's matrix
    first = 0  # of its kept coefficients
    for degree in tl.static_range(LMAX + 1):
        _turn_degree(out, x, wigner, row, edge, edges, offset, first, c, c < C, C, degree, MMAX, BLOCK, ACC)
        rows = 2 * degree + 1 if degree < MMAX else 2 * MMAX + 1
        offset += rows * (2 * degree + 1)
        first += rows


@triton.jit
def _sum_degree(
    sums, v, wigner, row, edges, order, begin, end, offset, first, c, there, C,
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
            rows = (place % ENDS) * KEPT + first
            for r in tl.static_range(ROWS):
                at = _row(row, rows + r, edge, edges, inside)
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


@triton.jit(do_not_specialize=["edges"])
def edge_to_node(
    sums, v, wigner, row, edges, order, starts, stride, C,
    LMAX: tl.constexpr, MMAX: tl.constexpr, KEPT: tl.constexpr, PACKED: tl.constexpr, ENDS: tl.constexpr,
    ADD: tl.constexpr, AT_ONCE: tl.constexpr, BLOCK: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """A program has an atom and a degree, and sums over the atom's edges in their order.

    The sums of all degrees would not fit into registers, and a degree's coefficients are read by its program
    alone, so the split costs no memory traffic. The largest degrees begin first, so that what runs last is
    short. AT_ONCE edges are read before any is waited for.
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
                sums, v, wigner, row, edges, order, begin, end, offset, first, c, c < C, C,
                degree, MMAX, KEPT, PACKED, ENDS, ADD, AT_ONCE, BLOCK, ACC,
            )  # fmt: skip
        rows = 2 * degree + 1 if degree < MMAX else 2 * MMAX + 1
        offset += rows * (2 * degree + 1)
        first += rows


@triton.jit
def _gradient_of_degree(
    out, v, x0, x1, row, edge, edges, offset, first, c, there, C,
    DEGREE: tl.constexpr, MMAX: tl.constexpr, KEPT: tl.constexpr, ENDS: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Multiply one degree of an edge's coefficients by those of its atoms."""
    ROWS: tl.constexpr = 2 * DEGREE + 1 if DEGREE < MMAX else 2 * MMAX + 1
    COLUMNS: tl.constexpr = 2 * DEGREE + 1
    k = tl.arange(0, triton.next_power_of_2(COLUMNS))
    at = ((DEGREE * DEGREE + k) * C)[:, None] + c[None, :]
    here = (k < COLUMNS)[:, None] & there[None, :]
    signal0 = tl.load(x0 + at, mask=here, other=0.0).to(ACC)
    if ENDS == 2:
        signal1 = tl.load(x1 + at, mask=here, other=0.0).to(ACC)
    for r in tl.static_range(ROWS):
        place = _row(row, first + r, edge, edges, True) * C
        products = signal0 * tl.load(v + place + c[None, :], mask=there[None, :], other=0.0).to(ACC)
        if ENDS == 2:
            place = _row(row, KEPT + first + r, edge, edges, True) * C
            products += signal1 * tl.load(v + place + c[None, :], mask=there[None, :], other=0.0).to(ACC)
        summed = tl.sum(products, 1).to(out.dtype.element_ty)
        tl.store(out + offset + r * COLUMNS + k, summed, mask=k < COLUMNS)


@triton.jit(do_not_specialize=["edges"])
def wigner_gradient(
    v, x, atom, row, out, edges, stride, C,
    LMAX: tl.constexpr, MMAX: tl.constexpr, KEPT: tl.constexpr, PACKED: tl.constexpr, ENDS: tl.constexpr,
    BLOCK: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """A program has an edge with all channels, and holds the signals of a degree at both ends.

    Products of both ends are added before threads exchange sums over channels.
    """
    edge = tl.program_id(0).to(tl.int64)
    c = tl.arange(0, BLOCK)
    x0 = x + tl.load(atom + edge * ENDS).to(tl.int64) * stride
    x1 = x + tl.load(atom + edge * ENDS + ENDS - 1).to(tl.int64) * stride
    out += edge * PACKED
    offset = 0
    first = 0
    for degree in tl.static_range(LMAX + 1):
        _gradient_of_degree(
            out, v, x0, x1, row, edge, edges, offset, first, c, c < C, C, degree, MMAX, KEPT, ENDS, ACC
        )  # fmt: skip
        rows = 2 * degree + 1 if degree < MMAX else 2 * MMAX + 1
        offset += rows * (2 * degree + 1)
        first += rows
