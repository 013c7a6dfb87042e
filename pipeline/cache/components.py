"""Features as colours: the first three principal components of a level as red, green and blue."""

from collections.abc import Sequence

import numpy as np

LOW, HIGH = 1, 99  # percentiles that become 0 and 255


def principal_colours(maps: Sequence[np.ndarray]) -> tuple[list[np.ndarray], float]:
    """Pictures (H, W, 3) uint8 of maps (C, H, W), in the components of all maps together, so that colours compare.

    Maps may differ in H and W. Signs are fixed (a component's largest entry is positive), so the same maps give the
    same pictures. Levels of fewer than three channels leave the rest grey.

    Returns:
        The pictures, and the share of the variance that they show.
    """
    flat = [m.reshape(len(m), -1).T.astype(np.float64) for m in maps]
    every = np.concatenate(flat)
    mean = every.mean(0)
    variances, vectors = np.linalg.eigh(np.cov(every - mean, rowvar=False).reshape(len(mean), len(mean)))
    axes = vectors[:, ::-1][:, :3]
    axes = axes * np.sign(axes[np.abs(axes).argmax(0), np.arange(axes.shape[1])])
    low, high = np.percentile((every - mean) @ axes, [LOW, HIGH], axis=0)
    spread = np.where(high > low, high - low, 1)
    pictures = []
    for m, values in zip(maps, flat, strict=True):
        scaled = np.clip(((values - mean) @ axes - low) / spread, 0, 1)
        colours = np.full((len(values), 3), 128, np.uint8)
        colours[:, : axes.shape[1]] = np.rint(255 * scaled)
        pictures.append(colours.reshape(*m.shape[1:], 3))
    whole = variances.sum()
    return pictures, float(variances[::-1][:3].sum() / whole) if whole > 0 else 0.0
