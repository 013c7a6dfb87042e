"""`sward inspect --html`: a store as one self-contained page with sizes, histograms and feature pictures."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from pipeline.cache.format.codecs import array_bytes
from pipeline.cache.manifest.records import Record
from pipeline.cache.store import Store
from pipeline.cache.tools.inspect import describe, inspect
from pipeline.drawing.masks import class_layer
from pipeline.own_files import write_page
from pipeline.report.charts import Chart, look
from pipeline.report.layered_image import Picture
from pipeline.report.report import PAGE, environment
from pipeline.report.table_formats import Table
from sward import seeds

SAMPLED, SHOWN = 16, 4  # numbers of records: in the histograms, and as pictures
LOW, HIGH = 1, 99  # percentiles of a principal component that map to 0 and 255
BINS = 120


@dataclass(frozen=True)
class Shown:
    """A record and its pictures, with the attributes that the page's macro reads."""

    record: Record
    pictures: tuple[Picture, ...]


def write_card(path: Path, out: Path) -> Path:
    """Writes the page of the store at ``path``; returns ``out``.

    Raises:
        FileNotFoundError, StoreDamaged: the store does not exist or cannot be read.
        ValueError: no shard is finished yet.
        ForeignFileError: ``out`` exists and is no page of this program.
    """
    store = Store(path, partial=True)
    records = sample(store, SAMPLED)
    if not records:
        raise ValueError(
            f"{path}: no shard is finished yet, so there is nothing to show; check progress with `sward inspect {path}`"
        )
    page = environment().get_template("store.html").render(content(store, records))
    write_page(out, page)
    return out


def sample(store: Store, count: int) -> list[Record]:
    """Draws ``count`` records from all subsets, the same ones every time."""
    every = [record for records in store.records.values() for record in records]
    return [every[i] for i in seeds.permutation(len(every), "card")[:count]]


def content(store: Store, records: list[Record]) -> dict[str, Any]:
    """Values for the template of the page."""
    facts = inspect(store.path)
    shown = [store.features(record) for record in records[:SHOWN]]
    maps = {level: [f[level].numpy() for f in shown] for level in store.channels}
    return {
        "name": store.path.name,
        "card": describe(facts),
        "complete": facts["complete"],
        "identity": {k: str(v) for k, v in sorted(facts["identity"].items())},
        "arrays": array_table(store),
        "levels": level_table(store),
        "values": value_charts(store, records, facts["range"]),
        "channels": channel_charts(store),
        "shown": pictures(store, records[:SHOWN], maps),
        "sampled": len(records),
        "style": Markup((PAGE / "style.css").read_text()),
    }


def array_table(store: Store) -> Table:
    """Table of the arrays of one record: type, shape and size, for the first subset that has records."""
    specs = store.specs(next(s for s, records in store.records.items() if records))
    sizes = {name: array_bytes(*spec) for name, spec in specs.items()}
    whole = sum(sizes.values())
    rows = [
        [name, dtype, "×".join(map(str, shape)), f"{sizes[name] / 1e3:,.1f}", f"{100 * sizes[name] / whole:.1f}"]
        for name, (shape, dtype) in specs.items()
    ]
    about = f"Arrays of one record, {whole / 1e6:.3f} MB; {store.shard_records} records a shard."
    return Table("arrays", "Arrays", about, ["array", "type", "shape", "kB", "share %"], rows)


def level_table(store: Store) -> Table | None:
    """Table of channel statistics per level over all finished training records; None if there are none."""
    if not store.records["train"]:
        return None
    rows = []
    for level, (mean, std) in store.statistics().items():
        typical = float(std.median())
        rows.append(
            [
                level,
                str(store.channels[level]),
                f"{float(mean.abs().max()):.3g}",
                f"{typical:.3g}",
                f"{float(std.max()) / max(typical, 1e-12):.1f}",
                str(int((std < 0.01 * typical).sum())),
            ]
        )
    header = ["level", "channels", "largest |mean|", "median sd", "largest sd / median", "dead"]
    about = "Over all training records, before rounding. Dead: a standard deviation below 1 % of the level's median."
    return Table("channels", "Channels", about, header, rows)


def value_charts(store: Store, records: list[Record], ranges: dict[str, tuple[float, float]]) -> list[Chart]:
    """Histograms of each level's values in the sampled records, over the range of all stored values; log scale."""
    edges = {level: np.linspace(low, max(high, low + 1e-6), BINS + 1) for level, (low, high) in ranges.items()}
    counts = {level: np.zeros(BINS) for level in edges}
    for record in records:
        for level, f in store.features(record).items():
            inside = np.clip(
                f.numpy(), edges[level][0], edges[level][-1]
            )  # values rounded by the codec may lie outside the range
            counts[level] += np.histogram(inside, edges[level])[0]
    return [
        Chart(f"values-{level}", f"{level}: values",
              partial(paint_values, counts=counts[level], edges=edges[level], row=i))
        for i, level in enumerate(edges)
    ]  # fmt: skip


def paint_values(axes: Any, counts: np.ndarray, edges: np.ndarray, row: int) -> None:
    axes.stairs(counts / counts.sum(), edges, color=look(row)["color"], linewidth=1.2)
    axes.set_yscale("log")
    axes.set(xlabel="value", ylabel="share")


def channel_charts(store: Store) -> list[Chart]:
    """Charts of mean and standard deviation of each level's channels, sorted by the deviation."""
    if not store.records["train"]:
        return []
    return [
        Chart(
            f"channels-{level}",
            f"{level}: mean ± standard deviation of its channels",
            partial(paint_channels, mean=mean.numpy(), std=std.numpy(), row=i),
        )
        for i, (level, (mean, std)) in enumerate(store.statistics().items())
    ]


def paint_channels(axes: Any, mean: np.ndarray, std: np.ndarray, row: int) -> None:
    order = np.argsort(std, kind="stable")
    axes.errorbar(np.arange(len(std)), mean[order], std[order], fmt=".", color=look(row)["color"], markersize=3,
                  elinewidth=0.6, alpha=0.8)  # fmt: skip
    axes.set(xlabel="channel, by standard deviation", ylabel="value")


def pictures(store: Store, records: list[Record], maps: dict[str, list[np.ndarray]]) -> list[Shown]:
    """Pictures of each record: image, label, and each level's first three principal components as RGB."""
    coloured = {level: principal_colours(found) for level, found in maps.items()}
    shown = []
    for i, record in enumerate(records):
        pixels = store.arrays(record, ("image", "label"))
        seen = np.ascontiguousarray(pixels["image"].transpose(1, 2, 0))
        truth = {"mask": class_layer(pixels["label"], len(store.classes))}
        row = [Picture("image", record.title, seen), Picture("label", "", seen, truth)]
        for level, (colours, share) in coloured.items():
            note = f"{share:.0%} of the variance"
            row.append(Picture(f"{level} PCA", note, enlarged(colours[i], seen.shape[0] // colours[i].shape[0])))
        shown.append(Shown(record, tuple(row)))
    return shown


def enlarged(picture: np.ndarray, times: int) -> np.ndarray:
    """Enlarges a picture: each pixel becomes ``times`` × ``times`` pixels."""
    return picture.repeat(max(1, times), 0).repeat(max(1, times), 1)


def principal_colours(maps: Sequence[np.ndarray]) -> tuple[list[np.ndarray], float]:
    """Maps feature maps (C, H, W) to RGB by their first three principal components.

    The components are those of all maps together, so that colours are comparable. Maps may differ in H and W. Signs
    are fixed (a component's largest entry is positive), so the same maps give the same pictures. With fewer than three
    channels, the remaining colours are grey.

    Returns:
        Pictures (H, W, 3) uint8, and the share of the variance that they show, in [0, 1].
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
