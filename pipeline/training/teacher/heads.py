"""The teacher's head in use: fitted by a run of its own, frozen; its tensors made at every step or read from the store.

The trunk is not needed: the head reads cached levels.
"""

from dataclasses import dataclass, field

import torch
from safetensors.torch import load_file

from pipeline.cache.manifest.appended import plan_path
from pipeline.cache.store import Store
from pipeline.training.checkpoint import CheckpointMismatch
from pipeline.training.config import TrainConfig, build_trainable
from pipeline.training.run_folder import RunFolder
from sward.contracts import Channels, Student
from sward.digest import state_digest


class HeadMissing(ValueError):
    """No fitted head where the configuration says it would be."""


@dataclass(frozen=True)
class HeadSource:
    """What a run gets of the teacher's head.

    channels: of ``penultimate`` and ``logits``; empty where there is none to be had.
    network: makes them from the levels of every batch; None where the store holds them.
    digest: of the head's weights; None without a head.
    missing: why there is none, and what to do; for the error of a method that reads it.
    """

    channels: Channels = field(default_factory=dict)
    network: Student | None = None
    digest: str | None = None
    missing: str = ""


def head_source(config: TrainConfig, store: Store, device: torch.device) -> HeadSource:
    """The head that ``config`` names, if its method uses one.

    Raises:
        HeadMissing: it is to run at every step, but is not fitted.
    """
    if not config.method.uses_head or config.head is None:
        return HeadSource()
    if config.head.tensors == "recomputed":
        network = fitted_head(config, store, device)
        return HeadSource(head_channels(network), network, state_digest(network.state_dict()))
    found, fit = store.appended, config.head_run()
    if found is not None and found["head"]["run"] == fit.identity():
        return HeadSource(found["channels"], None, found["head"]["digest"])
    held = f"those of head {found['head']['run'][:10]}" if found else "none"
    return HeadSource(
        missing=f"head.tensors is 'appended', but {store.path} holds {held}, not those of {fit.folder}; add them: "
        f"sward extract <cache config> --append logits,penultimate --head {fit.folder}"
    )


def head_channels(network: Student) -> Channels:
    return {"penultimate": network.classifier.in_channels, "logits": network.num_classes}


def fitted_head(config: TrainConfig, store: Store, device: torch.device) -> Student:
    """The head of ``config``, frozen and in evaluation mode, from the run that fitted it on this store.

    Raises:
        HeadMissing: that run is not there, not finished, or from before the store grew.
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
    with torch.random.fork_rng(devices=[]):
        network = build_trainable(fit.student, store.channels, len(store.classes), fit.seed)
    network.load_state_dict(load_file(folder.student))
    return network.eval().requires_grad_(False)
