"""One pass over the training records, in store order, for statistics that receipts do not hold (covariances)."""

import torch

from pipeline.stopping import stop_requests
from pipeline.training.stream import Stream
from pipeline.types import TrainProgress
from sward.contracts import FeaturePass

AT_ONCE = 8  # records in memory; the result does not depend on it


def count_records(stage: FeaturePass, stream: Stream, progress: TrainProgress) -> dict[str, torch.Tensor]:
    """The result of ``stage``, on the CPU, after every record of ``stream`` was added once.

    Raises:
        KeyboardInterrupt: asked to stop; the next run begins the pass again.
    """
    records = list(stream.order.records)
    with stop_requests() as stopping, stream.store.kept_open(), torch.no_grad():
        for first in range(0, len(records), AT_ONCE):
            stage.add(stream.batch_of(records[first : first + AT_ONCE]))
            done = min(first + AT_ONCE, len(records))
            progress(done, len(records), {})
            if stopping():
                raise KeyboardInterrupt(
                    f"stopped after {done} of {len(records)} records; the same command begins again"
                )
    return {name: tensor.cpu().contiguous() for name, tensor in stage.result().items()}
