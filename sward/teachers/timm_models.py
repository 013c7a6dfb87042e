"""Builds timm's networks, lists their maps by level, and loads checkpoints into them strictly."""

import sys
from collections.abc import Mapping, Sequence
from copy import deepcopy
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn

from sward.compat import import_torchvision_safely
from sward.levels import place
from sward.teachers.hiera import TrunkMismatch, key_problems

Maps = list[tuple[int, int]]  # (stride in pixels, channels) of every map of a network, shallow to deep
TRIAL = 256  # pixels: side of the view that shows the strides of a changed network
COUNTER = "num_batches_tracked"  # of batch norm; evaluation never reads it, and files may lack it
WRAPPERS = ("module.", "model.")  # prefixes of every name in files of wrapped networks


def make_backbone(model: str, options: Mapping[str, Any]) -> Any:
    """Builds timm's network with random weights and no classifier; it resizes positions at run time where it can.

    Raises:
        TrunkMismatch: timm has no such model, or the model no such option.
    """
    import_torchvision_safely()
    import timm

    given = dict(options)
    if "img_size" not in given:
        try:
            return timm.create_model(
                model, pretrained=False, num_classes=0, **{"dynamic_img_size": True, **given}
            ).eval()
        except TypeError:  # most convolutional networks take any size and have no such option
            pass
    try:
        return timm.create_model(model, pretrained=False, num_classes=0, **given).eval()
    except Exception as error:  # timm's models raise a dozen types of errors
        raise TrunkMismatch(
            f"timm cannot build teacher.model {model} with teacher.options {given}: {type(error).__name__}: {error}"
        ) from error


def change_strides(net: nn.Module, strides: Mapping[str, int]) -> None:
    """Sets the stride of convolutions by name. Raises TrunkMismatch for a name that is no convolution."""
    convolutions = {name: layer for name, layer in net.named_modules() if isinstance(layer, nn.Conv2d)}
    for name, stride in strides.items():
        if name not in convolutions:
            strided = [k for k, layer in convolutions.items() if max(layer.stride) > 1]
            raise TrunkMismatch(f"teacher.strides: no convolution {name}; those with a stride: {', '.join(strided)}")
        convolutions[name].stride = (stride, stride)


def is_plain(net: Any) -> bool:
    """Whether the network is a plain vision transformer, whose maps can take the final norm."""
    return "return_prefix_tokens" in signature(net.forward_intermediates).parameters


def intermediates(net: Any, images: Tensor, indices: Sequence[int] | None, normed: bool) -> list[Tensor]:
    """The maps (B, C, h, w) after the blocks or stages ``indices`` (None: all), without class and register tokens."""
    return net.forward_intermediates(images, indices=indices, norm=normed, output_fmt="NCHW", intermediates_only=True)


def maps_of(net: Any, changed: bool) -> Maps:
    """(stride, channels) of every map; measured on the meta device if convolutions were ``changed``."""
    known = [(int(f["reduction"]), int(f["num_chs"])) for f in net.feature_info]
    if not changed:
        return known
    with torch.no_grad():
        maps = intermediates(deepcopy(net).to("meta"), torch.empty(1, 3, TRIAL, TRIAL, device="meta"), None, False)
    return [(TRIAL // f.shape[-1], f.shape[1]) for f in maps]


def index_of(level: str, maps: Maps) -> int:
    """Index of a level's map. Raises TrunkMismatch, with the levels that there are, if there is none."""
    stride, block = place(level)
    indices = [i for i, (found, _) in enumerate(maps) if found == stride and block in (0, i + 1)]
    if not indices:
        raise TrunkMismatch(f"teacher.levels: no map {level}; the model has {', '.join(names_of(maps))}")
    return indices[-1]


def names_of(maps: Maps) -> list[str]:
    """Level names of all maps; with a block where several share a stride."""
    strides = [stride for stride, _ in maps]
    return [f"s{s}" if strides.count(s) == 1 else f"s{s}@{i + 1}" for i, s in enumerate(strides)]


def loadable(net: Any, state: Mapping[str, Any]) -> dict[str, Tensor]:
    """A checkpoint's tensors by timm's names, in float32 and without its classifier.

    Args:
        net: the whole network, whose names decide whether other authors' names are converted (timm's own filters).
        state: a state dict, or one under the key ``model`` or ``state_dict``.

    Raises:
        TrunkMismatch: timm's filter fails, or drops a bias that is not zero.
    """
    inner = next((state[k] for k in ("model", "state_dict") if isinstance(state.get(k), Mapping)), state)
    tensors = {k: v for k, v in inner.items() if isinstance(v, Tensor)}
    for prefix in WRAPPERS:
        if tensors and all(k.startswith(prefix) for k in tensors):
            tensors = {k.removeprefix(prefix): v for k, v in tensors.items()}
    tensors = {k: v.float() if v.is_floating_point() else v for k, v in tensors.items()}
    own = {k: v.shape for k, v in net.state_dict().items() if not k.endswith(COUNTER)}
    if any(k not in tensors or tensors[k].shape != shape for k, shape in own.items()):
        tensors = converted(net, tensors)
    heads = net.pretrained_cfg.get("classifier") or ()
    prefixes = tuple(f"{head}." for head in ([heads] if isinstance(heads, str) else heads))
    return {k: v for k, v in tensors.items() if not k.startswith(prefixes) and not k.endswith(COUNTER)}


def converted(net: nn.Module, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors by timm's names and at its positions' grid, by the filter that timm has for the family."""
    convert = getattr(sys.modules[type(net).__module__], "checkpoint_filter_fn", None)
    if convert is None:
        return tensors
    try:
        result = convert(dict(tensors), net)
    except Exception as error:  # filters assume their families' names; any type of error may follow
        raise TrunkMismatch(
            f"the checkpoint's names fit no family that timm converts: {error}; found {sorted(tensors)[:5]}"
        ) from error
    if dropped := [k for k, v in tensors.items() if k.endswith("qkv.bias") and k not in result and v.any()]:
        raise TrunkMismatch(f"the model has no {dropped[0]}, and the file's is not zero; use the model's _qkvb variant")
    return result


def load_strictly(net: nn.Module, tensors: Mapping[str, Tensor], known: set[str], what: str) -> None:
    """Loads ``tensors`` into a network of which later blocks may have been dropped.

    Args:
        net: the network; all of its tensors must be there.
        tensors: by timm's names.
        known: names of the whole network; other names are refused.
        what: beginning of the message.

    Raises:
        TrunkMismatch: a tensor is missing, unknown or of another shape; names them.
    """
    own = net.state_dict()
    given = {k: v for k, v in tensors.items() if k in own or k not in known}
    given |= {k: v for k, v in own.items() if k.endswith(COUNTER)}
    if problems := key_problems(net, given):
        raise TrunkMismatch("\n  ".join([what, *problems]))
    net.load_state_dict(given)
