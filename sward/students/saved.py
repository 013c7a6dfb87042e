"""A trained student from its folder, with its preprocessing: the one place where this library opens a file.

A folder holds ``student.safetensors`` (the tensors) and ``student.json`` (the card: which network, classes,
input size, normalisation). ``sward train`` writes both; nothing else of a run is needed, no store and no teacher.

    student = sward.students.load("runs/my-run")
    mask = student.predict(image)   # (H, W, 3) uint8 RGB -> (H, W) uint8 class map of the same size
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from torch import Tensor, nn

from sward.contracts import Config, Student
from sward.pixels import at_size, normaliser, resize

WEIGHTS, CARD = "student.safetensors", "student.json"
Pixels = TypeVar("Pixels", np.ndarray, Tensor)


class SavedStudentError(ValueError):
    """A folder holds no student, or its weights and card don't belong together."""


class Preprocessing(Config):
    """What must be known of a student to use it; a card's further entries are about its training."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    classes: tuple[str, ...] = Field(min_length=1, max_length=255, description="class names; a mask's value is a place")
    size: tuple[int, int] = Field(description="(height, width) the network reads, pixels")
    mean: tuple[float, float, float] = Field(description="of RGB in [0, 1]")
    std: tuple[float, float, float] = Field(description="of RGB in [0, 1]")


class Segmenter(nn.Module):
    """A network with its preprocessing, in evaluation mode: pictures of any size in, answers at that size out.

    Attributes: ``network`` (a ``Student``), ``classes``, ``size`` (height, width), ``mean``, ``std``. Pictures are
    RGB, uint8: arrays (H, W, 3) or (B, H, W, 3), or tensors (B, 3, H, W) on any device. A picture is resized as
    a whole (as in training, its aspect is not kept), so one much larger than ``size`` loses its details.
    """

    def __init__(self, network: Student, card: dict[str, Any]) -> None:
        super().__init__()
        known = Preprocessing.model_validate(card)
        self.network = network
        self.classes, self.size, self.mean, self.std = list(known.classes), known.size, known.mean, known.std
        self.register_buffer("place", torch.empty(0), persistent=False)  # knows where `.to` has moved the module
        self.eval()

    def preprocess(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) uint8 RGB -> (B, 3, *size) float32, what the network reads, on the module's device.

        Raises:
            ValueError: another shape or type.
        """
        if images.ndim != 4 or images.shape[1] != 3 or images.dtype != torch.uint8:
            raise ValueError(
                f"expected uint8 RGB pictures (B, 3, H, W), found {images.dtype} {tuple(images.shape)}; "
                "give pixels of 0 to 255 as they are: normalisation is done here"
            )
        device: torch.device = self.place.device  # type: ignore[assignment]  # nn.Module's attributes are a union
        return normaliser(self.mean, self.std, device)(resize(images.to(device), self.size))

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, K, H, W) float32 at the pictures' own size, of tensors (B, 3, H, W) uint8."""
        return at_size(self.network(self.preprocess(images)).logits.float(), (images.shape[-2], images.shape[-1]))

    @torch.no_grad()
    def predict(self, images: Pixels) -> Pixels:
        """Class map, uint8: (H, W) of an array (H, W, 3); (B, H, W) of a batch, as array or tensor."""
        return self._answer(images, lambda tensor: self(tensor).argmax(1).to(torch.uint8))

    @torch.no_grad()
    def probabilities(self, images: Pixels) -> Pixels:
        """Softmax of the logits, float32: (K, H, W) of an array (H, W, 3); (B, K, H, W) of a batch."""
        return self._answer(images, lambda tensor: self(tensor).softmax(1))

    def _answer(self, images: Pixels, ask: Callable[[Tensor], Tensor]) -> Pixels:
        if isinstance(images, Tensor):
            return ask(images)
        if images.ndim not in (3, 4) or images.shape[-1] != 3:
            raise ValueError(f"expected an RGB array (H, W, 3) or (B, H, W, 3), found shape {images.shape}")
        batch = torch.tensor(images if images.ndim == 4 else images[None]).permute(0, 3, 1, 2)
        answer = ask(batch).cpu().numpy()
        return answer if images.ndim == 4 else answer[0]


def load(path: str | Path) -> Segmenter:
    """The student saved in the folder ``path``, on the CPU, in evaluation mode.

    Raises:
        SavedStudentError: there is none, it is damaged, or it reads cached features instead of images.
    """
    network, card = read_student(path, build_from_card)
    return Segmenter(network, card)


def read_student(path: str | Path, build: Callable[[dict[str, Any]], Student]) -> tuple[Student, dict[str, Any]]:
    """(network in evaluation mode with its weights, whole card) of a folder; ``build`` makes it from the card.

    Raises:
        SavedStudentError: a file is missing or broken, or the weights don't fit the card.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    folder = Path(path)
    if missing := [name for name in (CARD, WEIGHTS) if not (folder / name).is_file()]:
        raise SavedStudentError(
            f"{folder} has no {' and no '.join(missing)}; give the folder of a run: it keeps its student from the "
            "first validation on"
        )
    try:
        card = json.loads((folder / CARD).read_text())
        Preprocessing.model_validate(card)
        network = build(card)
    except ValidationError as error:
        mistakes = "; ".join(f"{'.'.join(map(str, m['loc']))} {m['msg']}".strip() for m in error.errors())
        raise SavedStudentError(f"{folder / CARD} is no card of a student: {mistakes}") from error
    except (KeyError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise SavedStudentError(f"{folder / CARD} is no card of a student: {error!r}") from error
    try:
        network.load_state_dict(load_file(folder / WEIGHTS))
    except (RuntimeError, SafetensorError) as error:
        raise SavedStudentError(f"{folder / WEIGHTS} does not fit {CARD}: {error}") from error
    return network.eval(), card


def build_from_card(card: dict[str, Any]) -> Student:
    """The card's student with fresh weights; pre-trained encoder weights are not fetched."""
    from sward.students import StudentConfig, build_student

    if str(card["student"]["kind"]).endswith("-head"):
        raise SavedStudentError(
            f"found a {card['student']['kind']}, which reads cached features; give a student's run, which reads images"
        )
    config: Any = TypeAdapter(StudentConfig).validate_python(card["student"])
    return build_student(untrained(config), len(card["classes"]), 0)


def untrained(config: Any) -> Any:
    """A student's configuration that downloads nothing: the weights come from the folder."""
    return config.model_copy(update={"encoder_weights": None}) if getattr(config, "encoder_weights", None) else config
