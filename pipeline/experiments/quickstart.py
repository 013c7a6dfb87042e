"""`sward quickstart`: extraction and comparison on the embedded procedural data set, with one command."""

from pathlib import Path

from pipeline import console
from pipeline.cache.extraction.extract import extract
from pipeline.config import load_config
from pipeline.experiments.compare import compare
from pipeline.experiments.compare_config import CompareConfig
from pipeline.paths import with_urls


def quickstart(config_path: str | Path) -> str:
    """Extracts the missing part of the comparison's store and runs the comparison; returns its table as text.

    Raises:
        ConfigError, DatasetError, WeightsError, CacheMismatch: raised before anything is computed.
    """
    config = load_config(CompareConfig, config_path)
    lines = []
    for cache in config.train.caches:
        with console.progress("extracting the teacher's features", "records") as show:
            made = extract(cache, show)
        lines.append(f"{with_urls(made.path)}: {made.records} records, {made.computed} computed now")
    return "\n".join([*lines, "", compare(config)])
