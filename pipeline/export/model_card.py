"""The model card beside an export (Markdown): what it is, how to feed it, how well and how fast it does."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from pipeline.export.check import Check
from pipeline.export.speed import Speed

Metrics = dict[str, float]


@dataclass
class ExportFacts:
    """Everything the card says. card: student.json. run: run.json where there is one. dataset, teacher: names."""

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
    """The whole card."""
    parts = [intro(facts), use(facts), quality(facts), cost(facts), care(facts)]
    return "\n".join("\n".join(part) + "\n" for part in parts)


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
        "`sward predict FILE.onnx PICTURES` does just that; `student.json` and the file's metadata say the same.",
        *(f"Note: {limit}." for limit in facts.limits),
    ]


def quality(facts: ExportFacts) -> list[str]:
    measured = {
        "validation, at training": facts.card.get("validation", {}),
        "test": facts.run.get("test", {}),
    }
    measured |= {f"validation, {name}": metrics for name, metrics in facts.judged.items()}
    measured = {name: metrics for name, metrics in measured.items() if metrics}
    names = sorted({key for metrics in measured.values() for key in metrics})
    rows = [(name, *(figure(metrics.get(key)) for key in names)) for name, metrics in measured.items()]
    return [
        "## Quality",
        "",
        *table(("", *names), rows),
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
        f"{facts.parameters:,} parameters. {facts.flops / 1e9:.3f} GFLOP an image of {high}×{wide}: convolutions and",
        "matrix products, a multiplication and its addition counted as two (torch.utils.flop_counter); that is",
        f"{facts.flops / 2e9:.3f} GMAC, which many papers call FLOPs.",
        "",
        f"Batch 1, {facts.machine}, whatever else ran on it:",
        "",
        *table(("engine", "threads", "median ms", "95 % ms", "images/s"), rows),
    ]


def care(facts: ExportFacts) -> list[str]:
    return [
        "## Limits",
        "",
        "Trained on the data named above and judged on its own splits: other cameras, centres or preparations are",
        "unknown to it. Not a medical device. The data set's licence and the teacher's bind what may be done with it.",
        "",
        "Made with " + ", ".join(f"{name} {value}" for name, value in facts.run.get("versions", {}).items()) + ".",
    ]


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return [f"| {' | '.join(str(cell).replace('|', '/') for cell in line)} |" for line in lines]


def summary(facts: ExportFacts) -> list[str]:
    """What the terminal shows: checks, the metric loss of int8, cost."""
    lines = [facts.graph, *facts.limits, *(check.line() for check in facts.checks)]
    if facts.real.startswith("none"):
        lines.append(f"real images: {facts.real}")
    if facts.judged:
        before, after = facts.judged.values()
        shown = [name for name in ("dice", "iou", "miou") if name in before]
        changes = ", ".join(f"{n} {before[n]:.4f} to {after[n]:.4f} ({after[n] - before[n]:+.4f})" for n in shown)
        lines.append(f"int8 on the validation split: {changes}; calibrated on {facts.calibrated} training images")
    lines.append(
        f"{facts.parameters:,} parameters, {facts.flops / 1e9:.3f} GFLOP ({facts.flops / 2e9:.3f} GMAC) an image"
    )
    return lines + [
        f"{s.engine:34} {s.threads:>3} threads {s.milliseconds:9.2f} ms {s.throughput:8.1f} images/s"
        for s in facts.speeds
    ]


def figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"
