"""The picture of `formats.py`: GB/s of every format, warm and cold, by threads."""

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt


def plot(cases: dict[str, Any], path: Path) -> None:
    """One row of panels a case, one panel a kind of pass; bars of SWARD and the limits stand out."""
    kinds = list(next(iter(cases.values()))["figures"])
    figure, axes = plt.subplots(len(cases), len(kinds), figsize=(3.6 * len(kinds), 3.6 * len(cases)), squeeze=False)
    for row, (case, facts) in zip(axes, cases.items(), strict=True):
        for axis, kind in zip(row, kinds, strict=True):
            speeds = {n: f["gb_per_s"] for n, f in facts["figures"][kind].items()}
            names = sorted(speeds, key=speeds.__getitem__)
            colours = [{"SWARD": "#c2410c", "raw": "#525252", "memcpy": "#525252"}.get(n, "#a3bfd9") for n in names]
            axis.barh(names, [speeds[n] for n in names], color=colours)
            axis.set_title(f"{case}\n{kind}", fontsize=9)
            axis.set_xlabel("GB/s", fontsize=8)
            axis.tick_params(labelsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
