"""Names and units of all metrics, for tables, reports, model cards and Prefect alike."""

NAMES = {"dice": "mDice", "iou": "mIoU", "miou": "class mIoU", "macc": "mAcc"}  # metrics that tables of results show
UNDEFINED = "undefined"
PER_CENT = NAMES | {"boundary_f": "boundary F", "ece": "ECE"}  # saved as fractions, shown in per cent
PIXELS = {"hd95": "HD95", "hd95_penalised": "HD95, misses counted"}
COUNTS = {"hd95_undefined": "images whose HD95 is undefined"}
KNOWN = PER_CENT | PIXELS | COUNTS


def named(metric: str) -> str:
    """Name and unit, e.g. `mDice %`; the name in the files for a metric that is not in the tables."""
    unit = " %" if metric in PER_CENT else " px" if metric in PIXELS else ""
    return KNOWN.get(metric, metric) + unit


def in_unit(metric: str, value: float | None) -> str:
    """A value in the unit that ``named`` states; `undefined` for None."""
    if value is None:
        return UNDEFINED
    if metric in PER_CENT:
        return f"{100 * value:.2f}"
    return f"{value:.1f}" if metric in PIXELS else f"{value:g}"
