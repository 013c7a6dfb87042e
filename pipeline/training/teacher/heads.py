"""Provides the frozen teacher head's tensors: recomputed every step, or read from the store.

The head is fitted by a run of its own (`sward fit-head`). Its input is the cached levels, so the teacher's trunk is not
needed.
"""

from dataclasses import dataclass, field

import torch

from pipeline.cache.manifest.appended import plan_path
from pipeline.cache.store import Store
from pipeline.training.checkpoint import CheckpointMismatch
from pipeline.training.config import TrainConfig
from pipeline.training.run_folder import RunFolder
from pipeline.training.trainable import build_trainable
from sward.contracts import Channels, Student
from sward.digest import state_digest
from sward.students.saved import read_weights


class HeadMissing(ValueError):
    """The head that the configuration names is not fitted, or not the one expected."""


@dataclass(frozen=True)
class HeadSource:
    """Where a run takes the head tensors ``penultimate`` and ``logits`` from.

    Attributes:
        channels: head tensor -> channels; empty if there are none.
        network: frozen head that computes them from the levels of every batch; None if the store holds them.
        digest: digest of the head's weights; None without a head.
        missing: why there are none and what to do, for the error of a method that reads them.
    """

    channels: Channels = field(default_factory=dict)
    network: Student | None = None
    digest: str | None = None
    missing: str = ""


def head_source(config: TrainConfig, store: Store, device: torch.device) -> HeadSource:
    """Finds the head that ``config`` names; an empty source if its method uses none.

    Raises:
        HeadMissing: the head is to be recomputed every step, but is not fitted.
    """
    if not config.method.uses_head or config.head is None:
        return HeadSource()
    if config.head.tensors == "recomputed":
        network = fitted_head(config, store, device)
        return HeadSource(head_channels(network), network, state_digest(network.state_dict()))
    appended, fit = store.appended, config.head_run()
    if appended is not None and appended["head"]["run"] == fit.identity():
        return HeadSource(appended["channels"], None, appended["head"]["digest"])
    held = f"those of head {appended['head']['run'][:10]}" if appended else "none"
    return HeadSource(
        missing=f"head.tensors is 'appended', but {store.path} holds {held}, not those of {fit.folder}; add them: "
        f"sward extract <cache config> --append logits,penultimate --head {fit.folder}"
    )


def head_channels(network: Student) -> Channels:
    """Maps each head tensor to its number of channels."""
    return {"penultimate": network.classifier.in_channels, "logits": network.num_classes}


def fitted_head(config: TrainConfig, store: Store, device: torch.device) -> Student:
    """Loads the head of ``config``, frozen and in evaluation mode, from the run that fitted it on this store.

    Raises:
        HeadMissing: that run does not exist, is not finished, or was fitted before the store grew.
    """
    fit = config.head_run()
    folder = RunFolder(fit.folder)
    try:
        if folder.finished_from(store):
            return load_head(fit, folder, store).to(device)
    except CheckpointMismatch:
        raise HeadMissing(
            f"the head {fit.folder} was fitted before the store grew; remove that folder and "
            f"{plan_path(store.path).parent}, then fit it again with the same configuration: sward fit-head CONFIG"
        ) from None
    raise HeadMissing(
        f"the teacher's head is not fitted ({fit.folder} is not a finished run); "
        "fit it with the same configuration: sward fit-head CONFIG"
    )


def load_head(fit: TrainConfig, folder: RunFolder, store: Store) -> Student:
    """Loads a head from its finished run; torch's global generator keeps its state."""
    with torch.random.fork_rng(devices=[]):
        network = build_trainable(fit.student, store.channels, len(store.classes), fit.seed)
    network.load_state_dict(read_weights(folder.student))
    return network.eval().requires_grad_(False)
