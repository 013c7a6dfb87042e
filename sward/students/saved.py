"""Loads a trained student from its folder, together with its preprocessing.

The folder has ``student.safetensors`` (the weights) and ``student.json`` (the card: network configuration, classes,
input size, normalisation). ``sward train`` writes both. Nothing else of the run is needed, neither store nor teacher.
Of this package only `encoders.py`, for pretrained encoders, opens other files.

    student = sward.students.load("runs/my-run")
    mask = student.predict(image)   # (H, W, 3) uint8 RGB -> (H, W) uint8 class map of the same size
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, TypeVar

import numpy as np
import torch
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from torch import Tensor, nn

from sward.contracts import Config, Student
from sward.digest import state_digest
from sward.pixels import at_size, normaliser, resize
from sward.students.allocation import TooLarge, at_most

WEIGHTS, CARD = "student.safetensors", "student.json"
DIGEST = "sward-digest"  # key in the metadata of a file of weights
REPAIR = "copy both files again from the run that wrote them"
SLACK = 10_000_000  # values that building allocates beside the parameters
Pixels = TypeVar("Pixels", np.ndarray, Tensor)
Side = Annotated[int, Field(ge=1, le=1 << 16)]
Value = Annotated[float, Field(ge=0, le=1)]  # 0..255 would be another unit
Spread = Annotated[float, Field(gt=0, le=1)]


class SavedStudentError(ValueError):
    """A folder has no student, or its weights and card don't belong together."""


class Preprocessing(Config):
    """Entries of a card that are needed to use the student; the other entries describe its training."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    classes: tuple[str, ...] = Field(min_length=1, max_length=255, description="Class names, by index.")
    size: tuple[Side, Side] = Field(description="Input (height, width) of the network, in pixels.")
    mean: tuple[Value, Value, Value] = Field(description="Mean of RGB values in [0, 1].")
    std: tuple[Spread, Spread, Spread] = Field(description="Standard deviation of RGB values in [0, 1].")
    student: dict[str, Any] = Field(default={}, description="Configuration of the network.")
    teacher_channels: dict[str, Side] = Field(default={}, description="Channels of cached features, for a head.")


class Segmenter(nn.Module):
    """Network with its preprocessing, in evaluation mode: takes images of any size, returns results of that size.

    Images are RGB, uint8: arrays (H, W, 3) or (B, H, W, 3), or tensors (B, 3, H, W) on any device. The whole image is
    resized to ``size`` without keeping its aspect ratio, as in training. An image much larger than ``size`` therefore
    loses details.

    Attributes:
        network: the student.
        classes: class names, by index.
        size: input (height, width) of the network, in pixels.
        mean: mean of RGB values in [0, 1], for the normalisation.
        std: standard deviation of RGB values in [0, 1], for the normalisation.
    """

    def __init__(self, network: Student, card: dict[str, Any]) -> None:
        super().__init__()
        known = Preprocessing.model_validate(card)
        self.network = network
        self.classes, self.size, self.mean, self.std = list(known.classes), known.size, known.mean, known.std
        self.register_buffer("place", torch.empty(0), persistent=False)  # follows `.to`: its device is the module's
        self.eval()

    def preprocess(self, images: Tensor) -> Tensor:
        """Converts images (B, 3, H, W) uint8 RGB to the network's input: (B, 3, *size) float32, on the module's device.

        Raises:
            ValueError: the images have another shape or type.
        """
        if images.ndim != 4 or images.shape[1] != 3 or images.dtype != torch.uint8:
            raise ValueError(
                f"expected uint8 RGB pictures (B, 3, H, W), found {images.dtype} {tuple(images.shape)}; "
                "give pixel values of 0 to 255 without normalisation, which is done here"
            )
        device: torch.device = self.place.device  # type: ignore[assignment]  # nn.Module's attributes are a union
        return normaliser(self.mean, self.std, device)(resize(images.to(device), self.size))

    def forward(self, images: Tensor) -> Tensor:
        """Maps images (B, 3, H, W) uint8 to logits (B, K, H, W) float32, at the images' own size."""
        return at_size(self.network(self.preprocess(images)).logits.float(), (images.shape[-2], images.shape[-1]))

    @torch.no_grad()
    def predict(self, images: Pixels) -> Pixels:
        """Computes uint8 class maps: (H, W) of an array (H, W, 3); (B, H, W) of a batch, as array or tensor."""
        return self._answer(images, lambda tensor: self(tensor).argmax(1).to(torch.uint8))

    @torch.no_grad()
    def probabilities(self, images: Pixels) -> Pixels:
        """Computes class probabilities, float32: (K, H, W) of an array (H, W, 3); (B, K, H, W) of a batch."""
        return self._answer(images, lambda tensor: self(tensor).softmax(1))

    def _answer(self, images: Pixels, ask: Callable[[Tensor], Tensor]) -> Pixels:
        """Applies ``ask`` to images (B, 3, H, W); converts arrays to that form, and the result back to an array."""
        if isinstance(images, Tensor):
            return ask(images)
        if images.ndim not in (3, 4) or images.shape[-1] != 3:
            raise ValueError(f"expected an RGB array (H, W, 3) or (B, H, W, 3), found shape {images.shape}; convert it")
        batch = torch.tensor(images if images.ndim == 4 else images[None]).permute(0, 3, 1, 2)
        answer = ask(batch).cpu().numpy()
        return answer if images.ndim == 4 else answer[0]


def load(path: str | Path) -> Segmenter:
    """Loads the student saved in the folder ``path``, on the CPU, in evaluation mode.

    Raises:
        SavedStudentError: the folder has no student, its files are damaged, or the student reads cached features
            instead of images.
    """
    network, card = read_student(path, build_from_card)
    return Segmenter(network, card)


def read_student(path: str | Path, build: Callable[[dict[str, Any]], Student]) -> tuple[Student, dict[str, Any]]:
    """Reads the network and the card of a folder.

    Args:
        path: the folder.
        build: builds the network from the card; its weights are then replaced.

    Returns:
        (network with the saved weights, in evaluation mode; whole card).

    Raises:
        SavedStudentError: a file is missing or damaged, or the weights don't fit the card.
    """
    from safetensors import SafetensorError

    folder = Path(path)
    if missing := [name for name in (CARD, WEIGHTS) if not (folder / name).is_file()]:
        raise SavedStudentError(
            f"{folder} has no {' and no '.join(missing)}; give the folder of a run, which has both files after its "
            "first validation"
        )
    try:
        card = json.loads((folder / CARD).read_bytes())
        Preprocessing.model_validate(card)
        size = (folder / WEIGHTS).stat().st_size
        with at_most(size + SLACK):  # a weight is stored in a byte or more
            network = build(card)
    except TooLarge as error:
        raise SavedStudentError(
            f"{folder / CARD} does not describe the network of {WEIGHTS}: {error}, and {WEIGHTS} has {size:,} bytes; "
            f"{REPAIR}"
        ) from error
    except ValidationError as error:
        mistakes = "; ".join(f"{'.'.join(map(str, m['loc']))} {m['msg']}".strip() for m in error.errors())
        raise SavedStudentError(f"{folder / CARD} is no card of a student: {mistakes}; {REPAIR}") from error
    except (KeyError, TypeError, UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise SavedStudentError(f"{folder / CARD} is no card of a student: {error!r}; {REPAIR}") from error
    try:
        network.load_state_dict(read_weights(folder / WEIGHTS))
    except (RuntimeError, SafetensorError) as error:
        raise SavedStudentError(f"{folder / WEIGHTS} does not fit {CARD}: {error}; {REPAIR}") from error
    return network.eval(), card


def dump_weights(tensors: dict[str, Tensor]) -> bytes:
    """Bytes of a file of weights, with their digest in its metadata."""
    from safetensors.torch import save

    return save(tensors, metadata={DIGEST: state_digest(tensors)})


def read_weights(path: Path) -> dict[str, Tensor]:
    """Reads a file of weights and compares them with the digest in it; files of earlier versions have none.

    Raises:
        SavedStudentError: the tensors are not those that were written.
        SafetensorError: the file is no safetensors file.
    """
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        tensors, told = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118
    if told and told.get(DIGEST) != state_digest(tensors):
        raise SavedStudentError(f"{path} is damaged: its weights do not match the digest in it; {REPAIR}")
    return tensors


def build_from_card(card: dict[str, Any]) -> Student:
    """Builds the student of a card with new initial weights; pre-trained encoder weights are not downloaded."""
    from sward.students import StudentConfig, build_student

    if str(card["student"]["kind"]).endswith("-head"):
        raise SavedStudentError(
            f"found a {card['student']['kind']}, which reads cached features; give a student's run, which reads images"
        )
    config: Any = TypeAdapter(StudentConfig).validate_python(card["student"])
    return build_student(untrained(config), len(card["classes"]), 0)


def untrained(config: Any) -> Any:
    """Returns a student's configuration without pre-trained encoder weights, so that nothing is downloaded."""
    return config.model_copy(update={"encoder_weights": None}) if getattr(config, "encoder_weights", None) else config
