"""Trains a method's pre-stages, or loads them from an earlier run.

A pre-stage is a part of a method (e.g. MasKD's mask tokens) trained once on cached features, and the teacher's head,
before any student. Its result lies beside the run folders under an identity of its own, so that runs of all seeds share
it. A stopped pre-stage continues from its last checkpoint.
"""

import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save

from pipeline.cache.manifest.appended import plan_path
from pipeline.cache.manifest.identity import digest
from pipeline.documents import Digest, read_document
from pipeline.files import Busy, locked, remove_partials, write_atomic, write_json
from pipeline.paths import expand
from pipeline.training.batch_order import Order
from pipeline.training.config import TrainConfig
from pipeline.training.inputs.awaited import await_shards, training_shards
from pipeline.training.prestages.feature_pass import AT_ONCE, count_records
from pipeline.training.prestages.loop import train_sgd
from pipeline.training.run_folder import commit
from pipeline.training.stream import Stream
from pipeline.training.teacher.heads import HeadMissing, HeadSource, fitted_head
from pipeline.types import TrainProgress
from sward.contracts import HEAD_TENSORS, FeaturePass, Method, Prestage, Student
from sward.digest import state_digest

POLL_SECONDS = 2.0  # between looks whether another run has finished the pre-stage; it takes minutes
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Folder:
    """Folder of one pre-stage's result: its weights, and its card, which is written last."""

    path: Path

    @property
    def weights(self) -> Path:
        return self.path / "prestage.safetensors"

    @property
    def card(self) -> Path:
        return self.path / "prestage.json"


def run_prestages(
    config: TrainConfig, stream: Stream, method: Method, head: HeadSource, progress: TrainProgress
) -> dict[str, str]:
    """Trains or loads the pre-stages of ``method`` and its parts, and hands them over.

    Returns:
        "prestage.<part>" -> digest of the weights that the part received.
    """
    digests = {}
    for name, part in method.named_modules():
        stage = part.prestage() if isinstance(part, Method) else None
        if stage is not None:
            state = load_or_train(config, stream, stage, head, progress)
            part.load_prestage({key: tensor.to(stream.device) for key, tensor in state.items()})
            digests[f"prestage.{name or stage.key['kind']}"] = state_digest(state)
    return digests


def load_or_train(
    config: TrainConfig, stream: Stream, stage: Prestage | FeaturePass, head: HeadSource, progress: TrainProgress
) -> dict[str, torch.Tensor]:
    """Returns the state of the trained pre-stage, from its folder or after training it now.

    One run trains; other runs that need the same pre-stage wait for it.

    Raises:
        ValueError: the weights do not match their card.
        HeadMissing: the head is not the one whose tensors the store holds.
    """
    reads_head = isinstance(stage, Prestage) or bool(set(stage.needs) & set(HEAD_TENSORS))
    network = head_of(config, stream, head) if reads_head else None
    facts = facts_of(config, stream, stage, network)
    store = stream.store
    folder = Folder(Path(expand(config.runs)) / "shared" / f"prestage-{stage.key['kind']}-{digest(facts)[:10]}")
    warned = False
    while not folder.card.is_file():
        try:
            with locked(folder.path):
                remove_partials(folder.path)
                if not folder.card.is_file():
                    await_shards(store, training_shards(store), f"the pre-stage of {stage.key['kind']} reads them all")
                    train_prestage(config, stream, stage, network, facts, folder, progress)
        except Busy:
            if not warned:
                log.warning("waiting for another run that is training the pre-stage %s", folder.path)
            warned = True
            time.sleep(POLL_SECONDS)
    state = load_file(folder.weights)
    if state_digest(state) != read_document(folder.card, Digest)["digest"]:
        raise ValueError(
            f"{folder.weights} is not what its card says; remove the folder {folder.path} to train it again"
        )
    return state


def facts_of(
    config: TrainConfig, stream: Stream, stage: Prestage | FeaturePass, head: Student | None
) -> dict[str, Any]:
    """Returns what the result depends on, as its card has it; its digest names the folder."""
    facts = {
        "key": stage.key,
        "store": stream.store.content_id,
        "views": config.views,
        "teacher": config.teacher,
        "head": state_digest(head.state_dict()) if head else None,
        "made": list(stream.made) if set(stage.needs) & set(HEAD_TENSORS) else [],
    }
    if isinstance(stage, Prestage):  # a pass has no settings, and sees every record once
        facts |= {"settings": stage.settings.model_dump(mode="json"), "per_epoch": config.per_epoch}
    facts |= {} if config.labels.fraction == 1 else {"labels": config.labels.model_dump(mode="json")}
    return facts | ({} if config.fold is None else {"fold": config.fold})


def head_of(config: TrainConfig, stream: Stream, head: HeadSource) -> Student | None:
    """Returns the head's network, also if its tensors are read from the store; None without a head.

    Raises:
        HeadMissing: the head is not fitted, or not the one whose tensors the store holds.
    """
    if head.network is not None or config.head is None:
        return head.network
    network = fitted_head(config, stream.store, stream.device)
    if head.digest not in (None, state_digest(network.state_dict())):
        raise HeadMissing(
            f"{config.head_run().folder} is not the head whose tensors {stream.store.path} holds; append its tensors "
            f"again (remove {plan_path(stream.store.path).parent} first), or restore the old head"
        )
    return network


def train_prestage(
    config: TrainConfig,
    stream: Stream,
    stage: Prestage | FeaturePass,
    head: Student | None,
    facts: dict[str, Any],
    folder: Folder,
    progress: TrainProgress,
) -> None:
    """Trains ``stage`` on batches of its own (or counts in one pass), then writes its weights and, last, its card."""
    device, began, records = stream.device, time.monotonic(), stream.order.records
    if isinstance(stage, Prestage):
        order = Order(records, stage.settings.batch_size, stage.settings.seed, config.per_epoch)
    else:
        order = Order(records, AT_ONCE, seed=0)
    own = Stream(stream.store, order, stage.needs, device, config.workers, config.prefetch, stream.head, stream.teacher)
    about: dict[str, Any] = {}
    if isinstance(stage, Prestage):
        checked = {"prestage": digest(facts)}
        about["losses"] = train_sgd(stage.to(device), own, head, folder.path / "last.ckpt", checked, progress)
        state = {name: tensor.detach().cpu().contiguous() for name, tensor in stage.state_dict().items()}
    else:
        about["records"] = len(records)
        state = count_records(stage.to(device), own, progress)
    write_atomic(folder.weights, save(state))
    seconds = round(time.monotonic() - began, 2)
    about |= {"digest": state_digest(state), "commit": commit(), "seconds": seconds}
    write_json(folder.card, facts | about)
