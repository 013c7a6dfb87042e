"""`sward quality`: measures how codec and number of views affect a student: codecs × views × seeds.

All runs share student and method. Finished runs are reused, so an interrupted curve continues with the same command.
The stores must exist: one made by `sward extract` with the largest number of views, the others made from it by
`sward repack --codec`.
"""

from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, TypeAdapter, model_validator

from pipeline import console
from pipeline.cache.format.codecs import CODECS, CodecConfig, array_bytes
from pipeline.cache.manifest.identity import dataset_name
from pipeline.cache.store import Store
from pipeline.experiments.compare import train_or_reuse
from pipeline.experiments.comparison_files import relate_folders
from pipeline.experiments.quality_page import quality_markdown, write_page
from pipeline.files import write_atomic, write_json
from pipeline.paths import expand
from pipeline.results.runs import load_run, load_student
from pipeline.results.summary import over_seeds, run_line
from pipeline.training.config import TrainConfig
from pipeline.training.evaluate import headline
from pipeline.training.inputs.stores import one_of
from pipeline.training.setup import open_store
from pipeline.yaml_files import dump_yaml
from sward.contracts import Config

Views = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0)]


class QualityConfig(Config):
    """Configuration of `sward quality`: the points of the curve are codecs × views, each trained with every seed."""

    name: str = Field(pattern=r"^[A-Za-z0-9._-]+$", description="Name of the curve; its folder is <out>/<name>.")
    out: str = Field("runs/quality", description="Folder of curves.")
    train: TrainConfig = Field(
        description="Settings of all points: path of a train config; its views, seed, name, cache.codec are not used."
    )
    stores: dict[str, str] = Field(min_length=1, description="Codec -> store with that codec.")
    views: list[Views] = Field(min_length=1, description="Numbers of views, K; each point trains on the first K views.")
    seeds: list[Seed] = Field(min_length=2, description="Seeds; every point runs once with each.")

    @model_validator(mode="after")
    def _every_point_is_possible(self) -> "QualityConfig":
        problems = [
            f"{name} {values} repeat one; state each once"
            for name, values in (("views", self.views), ("seeds", self.seeds))
            if len(set(values)) < len(values)
        ]
        if unknown := sorted(set(self.stores) - set(CODECS)):
            problems.append(f"stores names {unknown}; the codecs are {list(CODECS)}")
        if (most := max(self.views)) > (held := one_of(self.train.cache, "sward quality").views.count):
            problems.append(f"views has {most}, the store of train.cache has {held}")
        if problems:
            raise ValueError("; ".join(problems))
        return self

    @property
    def folder(self) -> Path:
        return Path(expand(self.out)) / self.name

    def runs(self, codec: str, views: int) -> list[TrainConfig]:
        """Configurations of one point, one per seed."""
        changes = {"codec": TypeAdapter(CodecConfig).validate_python({"kind": codec}), "store": self.stores[codec]}
        common = {"cache": self.train.caches[0].model_copy(update=changes), "views": views}
        return [
            self.train.model_copy(update=common | {"seed": seed, "name": f"{codec}-{views}views-seed{seed}"})
            for seed in self.seeds
        ]


def quality(config: QualityConfig) -> str:
    """Runs all points, reusing finished runs; writes quality.{json,md} and report.html; returns the table as text.

    Raises:
        CacheMismatch, StoreIncomplete, StoreDamaged, FileNotFoundError: a store cannot be used; raised before any run.
    """
    points = [(codec, views) for codec in config.stores for views in config.views]
    stores = {codec: open_store(config.runs(codec, config.views[0])[0]) for codec in config.stores}
    for i in range(len(config.seeds)):  # seed by seed: an interrupted curve has all points for some seeds
        for point in points:
            train_or_reuse(config.runs(*point)[i])
    found = summary(config, [point_line(config, stores[codec], codec, views) for codec, views in points])
    relate_folders(config.folder, found["points"])
    save(config, found)
    page = write_page(config.folder)
    return f"{quality_markdown(found, console.columns())}\ntable: {config.folder / 'quality.md'}\nreport: {page}"


def feature_bytes(store: Store, views: int) -> int:
    """Bytes of teacher features that training on the first ``views`` views reads."""
    specs = store.specs("train")
    names = [name for level in store.channels for name in store.level_arrays(level)]
    record = sum(array_bytes(*specs[name]) for name in names)
    return record * sum(r.view.number < views for r in store.records["train"])


def point_line(config: QualityConfig, store: Store, codec: str, views: int) -> dict[str, Any]:
    """Numbers of one point: metrics over seeds, bytes of its features, its runs."""
    runs = [load_run(c.folder) for c in config.runs(codec, views)]
    return {
        "codec": codec,
        "views": views,
        "bytes": feature_bytes(store, views),
        "seeds": [run.config.seed for run in runs],
        "metrics": {name: over_seeds([run.metrics[name] for run in runs]) for name in runs[0].metrics},
        "runs": [run_line(run) for run in runs],
    }


def summary(config: QualityConfig, points: list[dict[str, Any]]) -> dict[str, Any]:
    """Collects the curve's points and conditions, ready for JSON."""
    first = load_run(Path(points[0]["runs"][0]["folder"]))
    classes = load_student(first.path)[1]["classes"]
    return {
        "name": config.name,
        "data": f"{dataset_name(first.config.caches[0].dataset)}, split {first.config.caches[0].split}",
        "subset": first.evaluation["subset"],
        "images": len(first.evaluation["per_image"]),
        "headline": headline(len(classes)),
        "student": first.config.student.kind,
        "method": first.config.method.kind,
        "steps": first.config.steps,
        "batch_size": first.config.batch_size,
        "commits": sorted({str(run["commit"]) for point in points for run in point["runs"]}),
        "versions": first.facts["versions"],
        "threads": first.facts["threads"],
        "points": points,
    }


def save(config: QualityConfig, found: dict[str, Any]) -> None:
    """Writes the resolved configuration, the numbers and the table."""
    texts = {
        "config.yaml": dump_yaml(config.model_dump(mode="json")),
        "quality.md": quality_markdown(found),
    }
    for name, text in texts.items():
        write_atomic(config.folder / name, text)
    write_json(config.folder / "quality.json", found)
