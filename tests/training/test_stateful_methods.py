"""What a method remembers from step to step is part of the checkpoint: a resumed run does not notice the pause."""

import pytest
import torch
from tiny import HEAD, tiny_cache, tiny_train

from pipeline.cache.extraction.extract import extract
from pipeline.training import loop
from pipeline.training.loop import Interrupted, train

CIRKD = {"kind": "cirkd", "queues": {"pixel": 64, "region": 16, "channel": 40, "channels_per_step": 8}}


class Asking:
    """Stands in for signals, so that the step is exact."""

    def __init__(self, answers):
        self.answers = answers

    def __enter__(self):
        return lambda: next(self.answers)

    def __exit__(self, *error):
        return None


def saved(folder):
    state = torch.load(folder / "last.ckpt", weights_only=True)
    return {f"{part}.{k.removeprefix('method.')}": v for part in ("student", "method") for k, v in state[part].items()}


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_cirkd_stopped_mid_way_and_resumed_has_the_students_bytes_and_the_queues_of_one_that_was_not(
    tmp_path, monkeypatch, version
):
    cache = tiny_cache(tmp_path)
    extract(cache)
    method = CIRKD | {"version": version}
    config = tiny_train(tmp_path, cache, method=method, head=HEAD, steps=4, checkpoint_every=100, signal_every=0)
    train(config.head_run())
    whole = train(config.model_copy(update={"name": "whole"}))
    asked = iter([False, True])  # asked once a step: stops after the second
    with monkeypatch.context() as patch:
        patch.setattr(loop, "stop_requests", lambda: Asking(asked))
        with pytest.raises(Interrupted, match="after step 2"):
            train(config)
    half = saved(config.folder)
    resumed = train(config)
    found, wanted = saved(resumed), saved(whole)
    assert {"method.filed", "method.queues.pixel", "method.queues.next"} <= found.keys()
    assert ("method.channel_queue.ring" in found) == (version == "v2")
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[k], wanted[k]) for k in found)
    assert (half["method.filed"], found["method.filed"]) == (1, 3)
    assert not torch.equal(half["method.queues.pixel"], found["method.queues.pixel"])
    name = "student.safetensors"
    assert (resumed / name).read_bytes() == (whole / name).read_bytes()
