"""Pretrained encoders of smp students: loads a local file strictly, and tries an encoder's sizes when it is built.

smp itself takes names of weights only; of a timm encoder it would turn a path into "timm's default weights". The names
in a file may have smp's prefix ``model.`` or not. No tensor of the encoder may be missing, and besides it the file may
only have a classifier.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from sward.students.initial import COUNTER, mismatches

SUFFIXES = (".safetensors", ".pt", ".pth", ".bin")
PREFIX = "model."  # of all names in smp's wrapper of a timm encoder
CLASSIFIERS = ("classifier.", "fc.", "head.", "conv_head.", "bn2.")  # names after the last stage, which smp drops
TRIAL = 256  # pixels: side of the view on which a new encoder is tried


def is_file(weights: str) -> bool:
    """Whether ``weights`` is the path of a file, and not the name of weights on the hub."""
    return weights.endswith(SUFFIXES)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Reads name -> tensor, in float32, without running code from the file.

    Raises:
        ValueError: the file is missing, or holds anything else than tensors by name.
    """
    if not path.is_file():
        raise ValueError(f"encoder_weights: there is no file {path}; correct the path, or set null for random weights")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            state: Any = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
        return {k: v.float() if v.is_floating_point() else v for k, v in state.items()}
    except Exception as error:  # both readers raise classes of their own
        raise ValueError(f"encoder_weights: cannot read {path}: {error}; expected tensors by name") from error


def load_encoder(encoder: nn.Module, path: Path) -> None:
    """Loads a file's tensors into an encoder.

    Raises:
        ValueError: the file cannot be read, or its tensors are not the encoder's; names them.
    """
    own, given = encoder.state_dict(), read_tensors(path)
    wrapped = all(name.startswith(PREFIX) for name in own)
    bare = {name.removeprefix(PREFIX): tensor for name, tensor in given.items()}
    named = {PREFIX + name if wrapped else name: tensor for name, tensor in bare.items()}
    dropped = {k for k in named if k.removeprefix(PREFIX).startswith(CLASSIFIERS) or k.endswith(COUNTER)} - own.keys()
    if problems := mismatches(own, {k: v for k, v in named.items() if k not in dropped}):
        raise ValueError(
            f"encoder_weights: {path} is not of this encoder:\n  " + "\n  ".join(problems) + "\n  choose the encoder "
            "that the file was made for, or another file"
        )
    loaded = {name: named.get(name, own[name]) for name in own}
    nn.Module.load_state_dict(encoder, loaded)  # smp's own method renames for some encoders


def try_encoder(encoder: nn.Module, name: str, img_size: Any) -> None:
    """Runs one view through the encoder on the meta device, where only shapes are computed.

    Args:
        encoder: smp's encoder, just built.
        name: for the message.
        img_size: side or (height, width) that the encoder was built for; None: it should take any.

    Raises:
        ValueError: the encoder takes one size only.
    """
    height, width = img_size if isinstance(img_size, list | tuple) else (img_size or TRIAL, img_size or TRIAL)
    weightless = {k: v.to("meta") for k, v in (*encoder.named_parameters(), *encoder.named_buffers())}
    training = encoder.training
    try:
        functional_call(encoder.eval(), weightless, (torch.empty(1, 3, height, width, device="meta"),))
    except NotImplementedError:  # an operation without a form on the meta device says nothing about sizes
        pass
    except (AssertionError, RuntimeError) as error:
        raise ValueError(
            f"encoder {name} does not take views of {height}×{width}: {error}; encoders of one size need "
            "encoder_options: {img_size: 256} (the side of your views), or choose one that takes any"
        ) from error
    finally:
        encoder.train(training)
