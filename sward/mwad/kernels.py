"""Triton kernels of MWAD's sums: relations of both networks in a window, forward in one pass and backward in another.

One program handles one window. It gathers the window's tokens from the maps, relates them and adds up Eq. 11-13 without
writing an attention matrix to memory; the backward pass computes the relations again. Widths that are no power of two
are padded and masked. ``sward.mwad.triton_attention_terms`` calls them; the module is imported there alone, where
Triton is there.
"""

# T tokens of a window, D width of Q, K, V, N windows of an image; blocks: BQ queries, BT keys (all of T), BD channels.
# Pointers have the names of their tensors, (images * pixels, D) each. Where `first` is 0, results are written, later
# they are added to; the barrier makes what one block of queries has written visible to the next.

import triton
import triton.language as tl

from sward.contracts import MASKED_SCORE

HIDDEN, BEYOND = tl.constexpr(MASKED_SCORE), tl.constexpr(2 * MASKED_SCORE)  # both finite: no NaN from inf - inf


@triton.jit
def rows_of(
    table: tl.tensor, window: tl.tensor, t: tl.tensor, image: tl.tensor, pixels: tl.tensor, T: tl.tensor
) -> tl.tensor:
    """Rows of tokens ``t`` in the maps, and whether they are there: tokens from T on and padding are not."""
    pixel = tl.load(table + window * T + t, mask=t < T, other=pixels)
    return image.to(tl.int64) * pixels + pixel, pixel < pixels


@triton.jit
def tile_of(x: tl.tensor, row: tl.tensor, here: tl.tensor, c: tl.tensor, D: tl.tensor, BD: tl.constexpr) -> tl.tensor:
    """Pointers to BD channels from ``c`` on of some rows, and their mask."""
    column = c + tl.arange(0, BD)
    return x + row[:, None] * D + column[None, :], here[:, None] & (column < D)[None, :]


@triton.jit
def read(x: tl.tensor, row: tl.tensor, here: tl.tensor, c: tl.tensor, D: tl.tensor, BD: tl.constexpr) -> tl.tensor:
    """BD channels from ``c`` on of some rows; 0 where there are none."""
    at, mask = tile_of(x, row, here, c, D, BD)
    return tl.load(at, mask=mask, other=0.0)


@triton.jit
def counted(valid: tl.tensor, window: tl.tensor, t: tl.tensor, T: tl.tensor, COUNTED: tl.constexpr) -> tl.tensor:
    """Weights of tokens ``t``: 1 for those that are counted."""
    if COUNTED:
        return tl.load(valid + window * T + t, mask=t < T, other=0).to(tl.float32)
    return (t < T).to(tl.float32)


@triton.jit
def log_attention(
    Q: tl.tensor,
    K: tl.tensor,
    row_q: tl.tensor,
    here_q: tl.tensor,
    row: tl.tensor,
    here: tl.tensor,
    seen: tl.tensor,
    T: tl.tensor,
    D: tl.tensor,
    PRECISION: tl.constexpr,
    BQ: tl.constexpr,
    BT: tl.constexpr,
    BD: tl.constexpr,
) -> tl.tensor:
    """Log attention of BQ queries, Eq. 9; keys from T on have no weight. ``seen`` (BQ, BT) is False for hidden keys."""
    scores = tl.zeros((BQ, BT), tl.float32)
    for c in range(0, D, BD):
        q, k = read(Q, row_q, here_q, c, D, BD), read(K, row, here, c, D, BD)
        scores += tl.dot(q, tl.trans(k), input_precision=PRECISION)
    scores = tl.where(seen, scores, HIDDEN)
    scores = tl.where((tl.arange(0, BT) < T)[None, :], scores, BEYOND)
    scores -= tl.max(scores, 1)[:, None]
    return scores - tl.log(tl.sum(tl.exp(scores), 1))[:, None]


@triton.jit
def seen_keys(
    visible: tl.tensor, window: tl.tensor, q: tl.tensor, T: tl.tensor, MASKED: tl.constexpr, BT: tl.constexpr
) -> tl.tensor:
    """Whether each query of a block attends to each key: (BQ, BT)."""
    t = tl.arange(0, BT)
    inside = (q < T)[:, None] & (t < T)[None, :]
    if MASKED:
        at = visible + window.to(tl.int64) * T * T + q[:, None] * T + t[None, :]
        return tl.load(at, mask=inside, other=1) != 0
    return inside | True


@triton.jit
def cosine_parts(
    V_s: tl.tensor,
    V_t: tl.tensor,
    row: tl.tensor,
    here: tl.tensor,
    eps: tl.tensor,
    D: tl.tensor,
    BT: tl.constexpr,
    BD: tl.constexpr,
) -> tl.tensor:
    """Of every token cos(V_s, V_t), and the factors of V_s and V_t in its gradient, which is their sum, negated."""
    both, own, other = tl.zeros((BT,), tl.float32), tl.zeros((BT,), tl.float32), tl.zeros((BT,), tl.float32)
    for c in range(0, D, BD):
        v_s, v_t = read(V_s, row, here, c, D, BD), read(V_t, row, here, c, D, BD)
        both += tl.sum(v_s * v_t, 1)
        own += tl.sum(v_s * v_s, 1)
        other += tl.sum(v_t * v_t, 1)
    length = tl.sqrt(own)
    inverse = 1 / tl.maximum(length, eps)
    inverse_both = inverse / tl.maximum(tl.sqrt(other), eps)
    cosine = both * inverse_both
    return cosine, tl.where(length > eps, cosine * inverse * inverse, 0.0), inverse_both


@triton.jit
def sums_kernel(
    Q_s: tl.tensor,
    K_s: tl.tensor,
    V_s: tl.tensor,
    Q_t: tl.tensor,
    K_t: tl.tensor,
    V_t: tl.tensor,
    table: tl.tensor,
    visible: tl.tensor,
    valid: tl.tensor,
    out: tl.tensor,
    pixels: tl.tensor,
    N: tl.tensor,
    T: tl.tensor,
    D: tl.tensor,
    eps: tl.tensor,
    MASKED: tl.constexpr,
    COUNTED: tl.constexpr,
    VALUE: tl.constexpr,
    CONTEXT: tl.constexpr,
    PRECISION: tl.constexpr,
    BQ: tl.constexpr,
    BT: tl.constexpr,
    BD: tl.constexpr,
) -> None:
    """Writes a window's sums of KL(A_t || A_s), 1 - cos(V_s, V_t) and |Z_s - Z_t|^2 to ``out`` (windows, 3)."""
    program = tl.program_id(0)
    image, window = program // N, program % N
    t = tl.arange(0, BT)
    row, here = rows_of(table, window, t, image, pixels, T)
    attn, context = tl.zeros((BQ,), tl.float32), tl.zeros((BQ,), tl.float32)
    for first in range(0, T, BQ):
        q = first + tl.arange(0, BQ)
        row_q, here_q = rows_of(table, window, q, image, pixels, T)
        count, seen = counted(valid, window, q, T, COUNTED), seen_keys(visible, window, q, T, MASKED, BT)
        logA_t = log_attention(Q_t, K_t, row_q, here_q, row, here, seen, T, D, PRECISION, BQ, BT, BD)
        logA_s = log_attention(Q_s, K_s, row_q, here_q, row, here, seen, T, D, PRECISION, BQ, BT, BD)
        A_t, A_s = tl.exp(logA_t), tl.exp(logA_s)
        attn += count * tl.sum(A_t * (logA_t - logA_s), 1)
        if CONTEXT:
            for c in range(0, D, BD):
                Z = tl.dot(A_s, read(V_s, row, here, c, D, BD), input_precision=PRECISION)  # Eq. 10
                Z -= tl.dot(A_t, read(V_t, row, here, c, D, BD), input_precision=PRECISION)
                context += count * tl.sum(Z * Z, 1)
    tl.store(out + program * 3, tl.sum(attn))
    tl.store(out + program * 3 + 2, tl.sum(context))
    value = 0.0
    if VALUE:
        cosine, _, _ = cosine_parts(V_s, V_t, row, here, eps, D, BT, BD)
        value = tl.sum(counted(valid, window, t, T, COUNTED) * (1 - cosine))
    tl.store(out + program * 3 + 1, value)


@triton.jit
def gradients_kernel(
    Q_s: tl.tensor,
    K_s: tl.tensor,
    V_s: tl.tensor,
    Q_t: tl.tensor,
    K_t: tl.tensor,
    V_t: tl.tensor,
    table: tl.tensor,
    visible: tl.tensor,
    valid: tl.tensor,
    grad: tl.tensor,
    dQ: tl.tensor,
    dK: tl.tensor,
    dV: tl.tensor,
    pixels: tl.tensor,
    N: tl.tensor,
    T: tl.tensor,
    D: tl.tensor,
    eps: tl.tensor,
    MASKED: tl.constexpr,
    COUNTED: tl.constexpr,
    VALUE: tl.constexpr,
    CONTEXT: tl.constexpr,
    PRECISION: tl.constexpr,
    BQ: tl.constexpr,
    BT: tl.constexpr,
    BD: tl.constexpr,
) -> None:
    """Writes the gradients of a window's Q_s, K_s and V_s; ``grad`` (3,) is that of the sums."""
    program = tl.program_id(0)
    image, window = program // N, program % N
    t = tl.arange(0, BT)
    row, here = rows_of(table, window, t, image, pixels, T)
    g_attn, g_value, g_context = tl.load(grad), tl.load(grad + 1), tl.load(grad + 2)
    _, own, other = cosine_parts(V_s, V_t, row, here, eps, D, BT, BD)
    weight = g_value * counted(valid, window, t, T, COUNTED)
    for first in range(0, T, BQ):
        q = first + tl.arange(0, BQ)
        row_q, here_q = rows_of(table, window, q, image, pixels, T)
        count, seen = counted(valid, window, q, T, COUNTED), seen_keys(visible, window, q, T, MASKED, BT)
        A_t = tl.exp(log_attention(Q_t, K_t, row_q, here_q, row, here, seen, T, D, PRECISION, BQ, BT, BD))
        A_s = tl.exp(log_attention(Q_s, K_s, row_q, here_q, row, here, seen, T, D, PRECISION, BQ, BT, BD))
        dS, dA = (A_s - A_t) * (g_attn * count)[:, None], tl.zeros((BQ, BT), tl.float32)
        for c in range(0, D, BD):
            at, mask = tile_of(dV, row, here, c, D, BD)
            dv, v_s, v_t = (
                tl.load(at, mask=mask & (first > 0), other=0.0),
                read(V_s, row, here, c, D, BD),
                read(V_t, row, here, c, D, BD),
            )
            if VALUE:
                dv += tl.where(first == 0, weight[:, None] * (v_s * own[:, None] - v_t * other[:, None]), 0.0)
            if CONTEXT:
                Z = tl.dot(A_s, v_s, input_precision=PRECISION) - tl.dot(A_t, v_t, input_precision=PRECISION)
                dZ = Z * (2 * g_context * count)[:, None]
                dA += tl.dot(dZ, tl.trans(v_s), input_precision=PRECISION)
                dv += tl.dot(tl.trans(A_s), dZ, input_precision=PRECISION)
            tl.store(at, dv, mask=mask)
        dS += A_s * (dA - tl.sum(dA * A_s, 1)[:, None])  # of the softmax
        for c in range(0, D, BD):
            at, mask = tile_of(dQ, row_q, here_q, c, D, BD)
            tl.store(at, tl.dot(dS, read(K_s, row, here, c, D, BD), input_precision=PRECISION), mask=mask)
            at, mask = tile_of(dK, row, here, c, D, BD)
            dk = tl.load(at, mask=mask & (first > 0), other=0.0)
            dk += tl.dot(tl.trans(dS), read(Q_s, row_q, here_q, c, D, BD), input_precision=PRECISION)
            tl.store(at, dk, mask=mask)
        tl.debug_barrier()
