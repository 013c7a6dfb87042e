"""Prediction of 8-bit values from their neighbours, for archives: what is left to store is small.

Each value is predicted from the ones to its left, above, and above left by the median edge detector of LOCO-I (JPEG-LS;
Weinberger, Seroussi and Sapiro 2000): the smaller neighbour at a falling edge, the larger one at a rising edge, else
their plane. Residuals are taken modulo 256, so that restoring is exact. Outside the map values are 0.
"""

import numpy as np


def residuals(values_CHW: np.ndarray) -> np.ndarray:
    """What prediction leaves of (C, H, W) uint8: the same shape and type."""
    x = np.pad(values_CHW.astype(np.int16), ((0, 0), (1, 0), (1, 0)))
    predicted = median_edge(x[:, 1:, :-1], x[:, :-1, 1:], x[:, :-1, :-1])
    return (x[:, 1:, 1:] - predicted).astype(np.uint8)


def restore(residuals_CHW: np.ndarray, out_CHW: np.ndarray) -> None:
    """Writes the values whose residuals are given, both (C, H, W) uint8: one antidiagonal of all channels at a time."""
    C, H, W = residuals_CHW.shape
    left = residuals_CHW.transpose(1, 2, 0).astype(np.int16)
    x = np.zeros((H + 1, W + 1, C), np.int16)
    for diagonal in range(H + W - 1):
        i = np.arange(max(0, diagonal - W + 1), min(H, diagonal + 1))
        j = diagonal - i
        x[i + 1, j + 1] = (left[i, j] + median_edge(x[i + 1, j], x[i, j + 1], x[i, j])) & 255
    out_CHW[:] = x[1:, 1:].transpose(2, 0, 1)


def median_edge(left: np.ndarray, above: np.ndarray, corner: np.ndarray) -> np.ndarray:
    """The median of ``left``, ``above`` and ``left + above - corner``, all int16 of one shape."""
    low, high = np.minimum(left, above), np.maximum(left, above)
    return np.clip(left + above - corner, low, high)
