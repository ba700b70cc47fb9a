"""Kernels around SiLU: with a bias, of mixed rows with a gate, and rolled back and averaged over taps.

All are bound by memory: each number is read and written once, and computed with in at least float32. Rows
are contiguous, so threads lie along them. Triton looks at their widths, since multiples of 16 give wide
loads, but not at how many there are: other batches need no other code.

Vectors along rows are loaded as tiles of one row ([None, :]) where they meet tiles of several: threads then
have the same columns of both, and nothing goes through shared memory.
"""

# Triton 3.0's interpreter takes annotations for objects, so they are not postponed here.

import triton
import triton.language as tl


@triton.jit
def _sigmoid(x):
    return 1.0 / (1.0 + tl.exp(-x))


@triton.jit
def _silu(x):
    return x * _sigmoid(x)


@triton.jit
def _slope(x):
    """Return SiLU'(x)."""
    sigmoid = _sigmoid(x)
    return sigmoid * (1.0 + x * (1.0 - sigmoid))


@triton.jit(do_not_specialize=["num_rows"])
def bias_silu(
    gradient, x, bias, out, num_rows, width, ROWS: tl.constexpr, COLUMNS: tl.constexpr, ACC: tl.constexpr
):
    """Compute SiLU(x + bias), or its slope times a gradient if there is one; ``out`` may be x.

    A program has a tile of rows and columns. Its mask is one of rows and one of columns rather than one of
    flat places, so that loads are wide whatever the number of rows, and each bias is read once for the tile.
    """
    start = tl.program_id(0).to(tl.int64) * ROWS
    r = tl.arange(0, ROWS)
    c = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    here = (start + r < num_rows)[:, None] & (c < width)[None, :]
    at = r[:, None] * width + c[None, :]
    y = tl.load(x + start * width + at, mask=here, other=0.0).to(ACC)
    if bias is not None:
        y += tl.load(bias + c[None, :], mask=c[None, :] < width, other=0.0).to(ACC)
    if gradient is None:
        result = _silu(y)
    else:
        result = tl.load(gradient + start * width + at, mask=here, other=0.0).to(ACC) * _slope(y)
    tl.store(out + start * width + at, result.to(out.dtype.element_ty), mask=here)


# The rows that a gate mixes lie in up to five tensors; a part of no rows stands for a missing one. A tile
# has all taps, so that each row is read once.


@triton.jit
def _mix_part(
    mixed, u, mixing, t, h, H, T: tl.constexpr, W: tl.constexpr, FIRST: tl.constexpr, PART: tl.constexpr
):  # fmt: skip
    """Add what the PART rows u contribute, which are from FIRST on among the W."""
    for w in tl.static_range(PART):
        values = tl.load(u + w * H + h[None, :], mask=h[None, :] < H, other=0.0).to(mixed.dtype)
        factors = tl.load(mixing + t * W + FIRST + w, mask=t < T, other=0.0).to(mixed.dtype)
        mixed += factors[:, None] * values
    return mixed


@triton.jit
def _unmix_part(
    mixed, u, mixing, t, h, H, T: tl.constexpr, W: tl.constexpr, FIRST: tl.constexpr, PART: tl.constexpr
):  # fmt: skip
    """Write the derivative by these rows; that by what is mixed is 0 beyond the taps."""
    for w in tl.static_range(PART):
        factors = tl.load(mixing + t * W + FIRST + w, mask=t < T, other=0.0).to(mixed.dtype)
        unmixed = tl.sum(factors[:, None] * mixed, 0)[None, :].to(u.dtype.element_ty)
        tl.store(u + w * H + h[None, :], unmixed, mask=h[None, :] < H)


@triton.jit
def _mix(
    u0, u1, u2, u3, u4, mixing, bias, edge, t, h, H, T: tl.constexpr, W: tl.constexpr,
    N0: tl.constexpr, N1: tl.constexpr, N2: tl.constexpr, N3: tl.constexpr, N4: tl.constexpr,
    TAPS: tl.constexpr, BLOCK: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Return mixing @ u + bias, a tile of taps and hidden channels."""
    mixed = tl.zeros((TAPS, BLOCK), ACC) + tl.load(bias + h[None, :], mask=h[None, :] < H, other=0.0).to(ACC)
    mixed = _mix_part(mixed, u0 + edge * N0 * H, mixing, t, h, H, T, W, 0, N0)
    mixed = _mix_part(mixed, u1 + edge * N1 * H, mixing, t, h, H, T, W, N0, N1)
    mixed = _mix_part(mixed, u2 + edge * N2 * H, mixing, t, h, H, T, W, N0 + N1, N2)
    mixed = _mix_part(mixed, u3 + edge * N3 * H, mixing, t, h, H, T, W, N0 + N1 + N2, N3)
    return _mix_part(mixed, u4 + edge * N4 * H, mixing, t, h, H, T, W, N0 + N1 + N2 + N3, N4)


@triton.jit
def gate(
    u0, u1, u2, u3, u4, mixing, bias, gating, gate_bias, out, H, T: tl.constexpr, W: tl.constexpr,
    N0: tl.constexpr, N1: tl.constexpr, N2: tl.constexpr, N3: tl.constexpr, N4: tl.constexpr,
    TAPS: tl.constexpr, BLOCK: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """A program has some hidden channels of an edge, with all taps."""
    edge = tl.program_id(0).to(tl.int64)
    h = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    t = tl.arange(0, TAPS)
    mixed = _mix(
        u0, u1, u2, u3, u4, mixing, bias, edge, t, h, H, T, W, N0, N1, N2, N3, N4, TAPS, BLOCK, ACC
    )  # fmt: skip
    opening = tl.load(gating + edge * H + h[None, :], mask=h[None, :] < H, other=0.0).to(ACC)
    opening += tl.load(gate_bias + h[None, :], mask=h[None, :] < H, other=0.0).to(ACC)
    gated = _silu(mixed) * _silu(opening)
    here = (t < T)[:, None] & (h < H)[None, :]
    to = out + edge * T * H + (t[:, None] * H + h[None, :])
    tl.store(to, gated.to(out.dtype.element_ty), mask=here)


@triton.jit
def gate_backward(
    gradient, u0, u1, u2, u3, u4, mixing, bias, gating, gate_bias,
    of_u0, of_u1, of_u2, of_u3, of_u4, of_gate, H, T: tl.constexpr, W: tl.constexpr,
    N0: tl.constexpr, N1: tl.constexpr, N2: tl.constexpr, N3: tl.constexpr, N4: tl.constexpr,
    TAPS: tl.constexpr, BLOCK: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """As above; sums over taps are within a thread, since a warp has all taps of its channels."""
    edge = tl.program_id(0).to(tl.int64)
    h = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    t = tl.arange(0, TAPS)
    mixed = _mix(
        u0, u1, u2, u3, u4, mixing, bias, edge, t, h, H, T, W, N0, N1, N2, N3, N4, TAPS, BLOCK, ACC
    )  # fmt: skip
    opening = tl.load(gating + edge * H + h[None, :], mask=h[None, :] < H, other=0.0).to(ACC)
    opening += tl.load(gate_bias + h[None, :], mask=h[None, :] < H, other=0.0).to(ACC)
    here = (t < T)[:, None] & (h < H)[None, :]
    of_gated = tl.load(
        gradient + edge * T * H + (t[:, None] * H + h[None, :]), mask=here, other=0.0
    ).to(ACC)  # fmt: skip
    of_opening = tl.sum(of_gated * _silu(mixed), 0)[None, :] * _slope(opening)
    tl.store(of_gate + edge * H + h[None, :], of_opening.to(of_gate.dtype.element_ty), mask=h[None, :] < H)
    of_mixed = of_gated * _silu(opening) * _slope(mixed)
    _unmix_part(of_mixed, of_u0 + edge * N0 * H, mixing, t, h, H, T, W, 0, N0)
    _unmix_part(of_mixed, of_u1 + edge * N1 * H, mixing, t, h, H, T, W, N0, N1)
    _unmix_part(of_mixed, of_u2 + edge * N2 * H, mixing, t, h, H, T, W, N0 + N1, N2)
    _unmix_part(of_mixed, of_u3 + edge * N3 * H, mixing, t, h, H, T, W, N0 + N1 + N2, N3)
    _unmix_part(of_mixed, of_u4 + edge * N4 * H, mixing, t, h, H, T, W, N0 + N1 + N2 + N3, N4)


# Rolling back exchanges coefficients of orders m and -m. A program has some channels of an edge, with all
# taps, and goes through the coefficients: pair by pair, so that each is read, and its SiLU computed, once.


@triton.jit
def tap_mean(
    values, bias, cos, sin, opposite, out, C,
    T: tl.constexpr, S: tl.constexpr, BLOCK: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Average SiLU(values + bias), rolled back, over taps."""
    edge = tl.program_id(0).to(tl.int64)
    c = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    values += edge * (T * S) * C
    out += edge * S * C
    for s in range(S):
        p = tl.load(opposite + s).to(tl.int32)
        if p == s:
            bias_s = tl.load(bias + s * C + c, mask=c < C, other=0.0).to(ACC)
            mean_s = tl.zeros((BLOCK,), ACC)
            for t in tl.static_range(T):
                y = tl.load(values + (t * S + s) * C + c, mask=c < C, other=0.0).to(ACC)
                factor = tl.load(cos + t * S + s).to(ACC) + tl.load(sin + t * S + s).to(ACC)
                mean_s += factor * _silu(y + bias_s)
            tl.store(out + s * C + c, mean_s.to(out.dtype.element_ty), mask=c < C)
        if p > s:
            bias_s = tl.load(bias + s * C + c, mask=c < C, other=0.0).to(ACC)
            bias_p = tl.load(bias + p * C + c, mask=c < C, other=0.0).to(ACC)
            mean_s = tl.zeros((BLOCK,), ACC)
            mean_p = tl.zeros((BLOCK,), ACC)
            for t in tl.static_range(T):
                y_s = tl.load(values + (t * S + s) * C + c, mask=c < C, other=0.0).to(ACC)
                y_p = tl.load(values + (t * S + p) * C + c, mask=c < C, other=0.0).to(ACC)
                silu_s, silu_p = _silu(y_s + bias_s), _silu(y_p + bias_p)
                cos_s, sin_s = tl.load(cos + t * S + s).to(ACC), tl.load(sin + t * S + s).to(ACC)
                cos_p, sin_p = tl.load(cos + t * S + p).to(ACC), tl.load(sin + t * S + p).to(ACC)
                mean_s += cos_s * silu_s + sin_p * silu_p
                mean_p += cos_p * silu_p + sin_s * silu_s
            tl.store(out + s * C + c, mean_s.to(out.dtype.element_ty), mask=c < C)
            tl.store(out + p * C + c, mean_p.to(out.dtype.element_ty), mask=c < C)


@triton.jit
def tap_mean_backward(
    gradient, values, bias, cos, sin, opposite, out, C,
    T: tl.constexpr, S: tl.constexpr, BLOCK: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Roll a gradient forth to every tap and multiply it by the slope of SiLU."""
    edge = tl.program_id(0).to(tl.int64)
    c = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    gradient += edge * S * C
    values += edge * (T * S) * C
    out += edge * (T * S) * C
    for s in range(S):
        p = tl.load(opposite + s).to(tl.int32)
        bias_s = tl.load(bias + s * C + c, mask=c < C, other=0.0).to(ACC)
        gradient_s = tl.load(gradient + s * C + c, mask=c < C, other=0.0).to(ACC)
        gradient_p = tl.load(gradient + p * C + c, mask=c < C, other=0.0).to(ACC)
        for t in tl.static_range(T):
            at = (t * S + s) * C + c
            y = tl.load(values + at, mask=c < C, other=0.0).to(ACC) + bias_s
            spread = tl.load(cos + t * S + s).to(ACC) * gradient_s
            spread += tl.load(sin + t * S + s).to(ACC) * gradient_p
            tl.store(out + at, (spread * _slope(y)).to(out.dtype.element_ty), mask=c < C)
