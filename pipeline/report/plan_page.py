"""`sward plan --html`: a plan as one self-contained page, with what a training step waits at other disks."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from pipeline.cost_estimates.estimate import CostEstimate
from pipeline.cost_estimates.estimate_text import describe
from pipeline.cost_estimates.waiting import Loading
from pipeline.own_files import write_page
from pipeline.report.charts import Chart, look
from pipeline.report.report import PAGE, environment

RATES = np.geomspace(1e7, 1e10, 121)  # bytes per second of a disk: 10 MB/s to 10 GB/s
BATCHES = (0.5, 1, 2, 4)  # times the configured batch size
WORKERS = (1, 2, 4, 8)
Wait = Callable[[float], float]  # bytes per second of the disk -> seconds per step


def write_plan(plan: CostEstimate, name: str, out: Path) -> Path:
    """Writes the page of a plan; returns ``out``.

    Args:
        plan: counted and measured costs.
        name: what was planned, as the page's heading.
        out: file to write.

    Raises:
        ForeignFileError: ``out`` exists and is no page of this program.
    """
    write_page(out, environment().get_template("plan.html").render(content(plan, name)))
    return out


def content(plan: CostEstimate, name: str) -> dict[str, Any]:
    """Values for the template of the page."""
    chosen = loading(plan, plan.codec)
    return {
        "name": name,
        "lines": describe(plan),
        "who": plan.demand.who,
        "enough": f"{chosen.enough / 1e6:,.0f} MB/s",
        "measured": f"{rate_here(plan) / 1e6:,.0f} MB/s",
        "charts": charts(plan),
        "style": Markup((PAGE / "style.css").read_text()),
    }


def loading(plan: CostEstimate, codec: str) -> Loading:
    """What a step of the planned student needs from a store of this codec."""
    need, read = plan.demand, plan.reads[codec]
    return Loading(
        need.step_seconds, need.batch_size, plan.read_bytes[codec], read.warm, read.decode, max(1, need.workers)
    )


def rate_here(plan: CostEstimate) -> float:
    """Bytes per second that the store's disk gave, read cold."""
    return plan.read_bytes[plan.codec] / plan.reads[plan.codec].cold


def charts(plan: CostEstimate) -> list[Chart]:
    """Three charts of the wait against the disk's rate: by codec, by batch size and by number of reading threads."""
    chosen, need = loading(plan, plan.codec), plan.demand
    sizes = sorted({max(1, round(need.batch_size * times)) for times in BATCHES})
    families: dict[str, dict[str, Wait]] = {
        f"codec, batches of {need.batch_size}, {chosen.workers} threads": {
            codec: loading(plan, codec).wait for codec in plan.reads
        },
        f"batch size, {plan.codec}, {chosen.workers} threads": {
            f"{n} records": partial(chosen.wait, batch_size=n) for n in sizes
        },
        f"reading threads, {plan.codec}, batches of {need.batch_size}": {
            f"{n} threads": partial(chosen.wait, workers=n) for n in WORKERS
        },
    }
    return [chart(title, waits, rate_here(plan)) for title, waits in families.items()]


def chart(title: str, waits: dict[str, Wait], here: float) -> Chart:
    """One chart: a line for each way to load."""
    lines = {label: np.array([1e3 * wait(rate) for rate in RATES]) for label, wait in waits.items()}
    told = "; ".join(f"{label} {1e3 * wait(here):.3g} ms" for label, wait in waits.items())
    return Chart(
        f"wait-{title.split(',')[0].replace(' ', '-')}",
        f"Wait per step by {title}",
        partial(paint, lines=lines, here=here),
        note=f"Dotted: the disk measured here ({here / 1e6:,.0f} MB/s cold), where a step waits: {told}.",
        told=f"Milliseconds that a step waits, at the {here / 1e6:,.0f} MB/s measured here: {told}.",
    )


def paint(axes: Any, lines: dict[str, np.ndarray], here: float) -> None:
    for row, (label, milliseconds) in enumerate(lines.items()):
        axes.plot(RATES / 1e6, milliseconds, label=label, **look(row))
    axes.axvline(here / 1e6, color="0.5", linestyle=":", linewidth=1)
    axes.set_xscale("log")
    axes.set_yscale("symlog", linthresh=1)
    axes.set_ylim(bottom=0)
    axes.set(xlabel="MB/s of the disk", ylabel="ms waited per step")
