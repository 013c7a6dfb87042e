"""A warm-up on labels alone is learned once: runs that differ only in what it leaves unused continue from it.

It is the checkpoint of the run that came first, taken where the warm-up ends, so that a run which continues from
it equals one that did not, bit for bit on CPU.
"""

from pathlib import Path

from pipeline.training.config import TrainConfig


def warm_up_file(config: TrainConfig) -> Path | None:
    """Where the checkpoint at the end of this run's warm-up lies; None where there is none to share.

    A run that validates within its warm-up may keep a student from it, so it does not share.
    """
    steps, unused = config.method.warm_up(config.steps)
    if not unused or not 0 < steps < config.steps or 0 < config.eval_every <= steps:
        return None
    fields = type(config.method).model_fields
    method = config.method.model_copy(update={name: fields[name].default for name in unused})
    neutral = config.model_copy(update={"method": method})
    return Path(config.runs) / "shared" / f"warmup-{config.method.kind}-{neutral.identity()[:10]}.ckpt"
