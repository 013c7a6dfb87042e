"""Model card of an export (Markdown): origin, input and output, quality, speed, limits."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml

from pipeline.export.check import Check
from pipeline.export.speed import Speed
from sward.metrics.names import KNOWN, NAMES, in_unit, named

Metrics = dict[str, float]


@dataclass
class ExportFacts:
    """Contents of the model card.

    Attributes:
        name: name of the run's folder.
        card: contents of student.json.
        run: contents of run.json; empty if the run has none.
        origin: title -> text of the table's rows about data, split, teacher and store.
        graph: free and fixed dimensions in words.
        limits: one sentence for each fixed dimension, with the reason.
        files: file name -> bytes.
        checks: comparison of each exported file with torch.
        parameters: number of the student's parameters.
        flops: FLOPs per image of the size in ``card``; a multiplication and its addition count as two.
        machine: processor that the speeds were measured on.
        speeds: latency of each engine.
        real: which real images were compared, or why none.
        calibrated: number of images that int8 was calibrated on; 0 without int8.
        judged: engine -> metrics on the validation split, in torch and in int8; empty without int8.
    """

    name: str
    card: dict[str, Any]
    run: dict[str, Any]
    origin: dict[str, str]
    graph: str
    limits: list[str]
    files: dict[str, int]
    checks: list[Check]
    parameters: int
    flops: int
    machine: str
    speeds: list[Speed]
    real: str = ""
    calibrated: int = 0
    judged: dict[str, Metrics] = field(default_factory=dict)


def model_card(facts: ExportFacts) -> str:
    """Returns the model card as Markdown."""
    parts = [front_matter(facts), intro(facts), use(facts), quality(facts), cost(facts), care(facts)]
    return "\n".join("\n".join(part) + "\n" for part in parts)


def front_matter(facts: ExportFacts) -> list[str]:
    """YAML block that model hubs read: library, task, licence, data set, metrics of the test split as fractions.

    The licence is that of data and teacher together, which no name of a hub's list stands for.
    """
    test = {name: value for name, value in facts.run.get("test", {}).items() if value is not None}
    data = facts.origin.get("data")
    task = {"type": "image-segmentation"}
    block: dict[str, Any] = {
        "library_name": "sward",
        "pipeline_tag": task["type"],
        "license": "other",
        "license_name": "terms-of-data-and-teacher",
        "tags": ["knowledge-distillation", "segmentation", "onnx", facts.card["student"]["kind"]],
        **({"datasets": [data]} if data else {}),
        "metrics": [NAMES[name] for name in NAMES if name in test],
    }
    if data and block["metrics"]:
        results = [{"type": name, "name": NAMES[name], "value": test[name]} for name in NAMES if name in test]
        result = {"task": task, "dataset": {"name": data, "type": data}, "metrics": results}
        block["model-index"] = [{"name": facts.name, "results": [result]}]
    return ["---", yaml.safe_dump(block, sort_keys=False, allow_unicode=True).rstrip(), "---"]


def intro(facts: ExportFacts) -> list[str]:
    card = facts.card
    rows = [("network", card["student"]["kind"]), ("trained by method", card.get("method", "unknown"))]
    rows += [*facts.origin.items(), ("classes", ", ".join(card["classes"])), ("run", card.get("run", "unknown"))]
    return [f"# {facts.name}", "", "A segmentation student, exported by SWARD.", "", *table(("", ""), rows)]


def use(facts: ExportFacts) -> list[str]:
    high, wide = facts.card["size"]
    mean, std = facts.card["mean"], facts.card["std"]
    rows = [(f"`{name}`", f"{size / 1e6:.2f} MB") for name, size in facts.files.items()]
    return [
        "## Use",
        "",
        *table(("file", "size"), rows),
        "",
        f"Input `images`: float32 (batch, 3, height, width), RGB; {facts.graph}.",
        "",
        f"Resize a picture to {high}×{wide} (height × width; bilinear, antialiased, as Pillow does), divide by 255,",
        f"subtract the mean {mean}, divide by {std}.",
        "",
        f"Output `logits`: float32 (batch, {len(facts.card['classes'])}, h, w);",
        "enlarge them to the picture (bilinear, corners not aligned) and take the argmax over classes.",
        "`sward predict FILE.onnx PICTURES` does all this; `student.json` and the file's metadata hold the same facts.",
        *(f"Note: {limit}." for limit in facts.limits),
    ]


def quality(facts: ExportFacts) -> list[str]:
    measured = {
        "validation, at training": facts.card.get("validation", {}),
        "test": facts.run.get("test", {}),
    }
    measured |= {f"validation, {name}": metrics for name, metrics in facts.judged.items()}
    measured = {name: metrics for name, metrics in measured.items() if metrics}
    found = {key for metrics in measured.values() for key in metrics}
    names = [key for key in KNOWN if key in found]
    rows = [
        (name, *(in_unit(key, metrics[key]) if key in metrics else "–" for key in names))
        for name, metrics in measured.items()
    ]
    head = [named(key) for key in names]
    return [
        "## Quality",
        "",
        *table(("", *head), rows),
        "",
        *(f"- {check.line()}" for check in facts.checks),
        *([f"- real images: {facts.real}"] if facts.real else []),
        *([f"- int8: calibrated on {facts.calibrated} training images"] if facts.calibrated else []),
    ]


def cost(facts: ExportFacts) -> list[str]:
    high, wide = facts.card["size"]
    rows = [
        (s.engine, s.threads, f"{s.milliseconds:.2f}", f"{s.slow:.2f}", f"{s.throughput:.1f}") for s in facts.speeds
    ]
    return [
        "## Cost",
        "",
        f"{facts.parameters:,} parameters. {facts.flops / 1e9:.3f} GFLOP per image of {high}×{wide}: convolutions and",
        "matrix products, a multiplication and its addition counted as two (torch.utils.flop_counter); that is",
        f"{facts.flops / 2e9:.3f} GMAC, which many papers call FLOPs.",
        "",
        f"Batch size 1 on {facts.machine}, while other programs may have been running:",
        "",
        *table(("engine", "threads", "median ms", "95 % ms", "images/s"), rows),
    ]


def care(facts: ExportFacts) -> list[str]:
    return [
        "## Limits",
        "",
        "Trained on the data named above and evaluated on that data's own splits; the quality on images from other",
        "cameras, centres or preparations is unknown. Not a medical device. The licences of the data set and of the",
        "teacher limit how it may be used.",
        "",
        "Made with " + ", ".join(f"{name} {value}" for name, value in facts.run.get("versions", {}).items()) + ".",
    ]


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Formats a Markdown table, as lines."""
    lines = [head, ["---"] * len(head), *rows]
    return [f"| {' | '.join(str(cell).replace('|', '/') for cell in line)} |" for line in lines]


def summary(facts: ExportFacts) -> list[str]:
    """Lines for the terminal: dimensions, checks, change of metrics by int8, cost."""
    lines = [facts.graph, *facts.limits, *(check.line() for check in facts.checks)]
    if facts.real.startswith("none"):
        lines.append(f"real images: {facts.real}")
    if facts.judged:
        before, after = facts.judged.values()
        shown = [name for name in ("dice", "iou", "miou") if name in before]
        changes = ", ".join(
            f"{NAMES[n]} {in_unit(n, before[n])} to {in_unit(n, after[n])} % ({100 * (after[n] - before[n]):+.2f})"
            for n in shown
        )
        lines.append(f"int8 on the validation split: {changes}; calibrated on {facts.calibrated} training images")
    lines.append(
        f"{facts.parameters:,} parameters, {facts.flops / 1e9:.3f} GFLOP ({facts.flops / 2e9:.3f} GMAC) per image"
    )
    return lines + [
        f"{s.engine:34} {s.threads:>3} threads {s.milliseconds:9.2f} ms {s.throughput:8.1f} images/s"
        for s in facts.speeds
    ]
