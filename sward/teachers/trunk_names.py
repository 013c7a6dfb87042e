"""Finds the trunk in a checkpoint, under the names that trainers and wrappers give it.

    {"model": …}, {"state_dict": …}               Meta's trainer, Lightning
    module.  _orig_mod.  model.  sam2_model.      DDP, torch.compile, Lightning modules
    image_encoder.trunk.  trunk.                  SAM 2, its image encoder
    vision_encoder.backbone.                      Sam2Model of transformers, which also renames layers

Adapters of PEFT are not merged: their scale (alpha / rank) is not in the checkpoint.
"""

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

CONTAINERS = ("model", "state_dict", "model_state_dict", "module")  # entries that may hold the tensors
LEADING = re.compile(r"^((module|_orig_mod|model|base_model|sam2_model|sam_model|sam2|sam|net|network)\.)+")
ANYWHERE = re.compile(r"(^|(?<=\.))(module|_orig_mod)\.")
ROOTS = ("image_encoder.trunk.", "trunk.", "vision_encoder.backbone.", "backbone.", "")  # tried in this order
PARTS = ("patch_embed.", "blocks.", "pos_embed")
RENAMED = {  # in transformers: name there -> name in Hiera
    "patch_embed.projection.": "patch_embed.proj.",
    ".layer_norm1.": ".norm1.",
    ".layer_norm2.": ".norm2.",
    ".mlp.proj_in.": ".mlp.layers.0.",
    ".mlp.proj_out.": ".mlp.layers.1.",
}
ADAPTERS = (".lora_", ".base_layer.", ".modules_to_save.", ".original_module.")


class TrunkMismatch(ValueError):
    """The checkpoint does not have the trunk that the configuration describes."""


def trunk_tensors(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """Extracts the trunk's tensors, by their names in Hiera.

    Raises:
        TrunkMismatch: the checkpoint has no keys of a Hiera trunk, has two different ones, or adapters that are not
            merged, or something else than tensors.
    """
    inner = contents(state)
    plain = {key: ANYWHERE.sub("", LEADING.sub("", key)) for key in inner}
    for root in ROOTS:
        wanted = tuple(root + part for part in PARTS)
        found = {key: hiera_name(name.removeprefix(root)) for key, name in plain.items() if name.startswith(wanted)}
        if found:
            require_merged(found)
            return collected(inner, found)
    raise TrunkMismatch(
        "no Hiera trunk in the checkpoint: expected keys like image_encoder.trunk.blocks.0…, "
        f"found {sorted(inner)[:5]}; set teacher.weights to a SAM 2 or MedSAM2 checkpoint"
    )


def contents(state: Mapping[str, Any]) -> Mapping[str, Any]:
    """The mapping that holds the tensors: the checkpoint itself, or its entry ``model``, ``state_dict`` …

    Raises:
        TrunkMismatch: that entry, or one of its keys, is of another type.
    """
    entries = {name: state[name] for name in CONTAINERS if name in state and not isinstance(state[name], Tensor)}
    mappings = [value for value in entries.values() if isinstance(value, Mapping)]
    if entries and not mappings:
        name, value = next(iter(entries.items()))
        raise TrunkMismatch(
            f"the checkpoint's entry {name!r} is {shown(value)}, expected tensors by name; save a state_dict() there"
        )
    inner = contents(mappings[0]) if mappings else state
    if others := [key for key in inner if not isinstance(key, str)]:
        raise TrunkMismatch(
            f"the checkpoint has keys like {others[0]!r} ({type(others[0]).__name__}), expected the names of tensors; "
            "save model.state_dict()"
        )
    return inner


def hiera_name(name: str) -> str:
    """A tensor's name in Hiera, of its name there or in transformers."""
    for other, own in RENAMED.items():
        name = name.replace(other, own)
    return name


def require_merged(found: Mapping[str, str]) -> None:
    """Raises TrunkMismatch if the trunk has adapters beside its weights."""
    if adapters := sorted(key for key in found if any(part in key for part in ADAPTERS)):
        raise TrunkMismatch(
            f"the checkpoint has adapters that are not merged into the weights (PEFT, LoRA): {adapters[0]} and "
            f"{len(adapters) - 1} more; merge them where the model was trained: model.merge_and_unload(), then save "
            "its state_dict()"
        )


def collected(inner: Mapping[str, Any], found: Mapping[str, str]) -> dict[str, Tensor]:
    """Name in Hiera -> float32 tensor, from ``found``: key of the checkpoint -> name in Hiera."""
    tensors: dict[str, Tensor] = {}
    for key, name in found.items():
        value = inner[key]
        if not isinstance(value, Tensor) or not value.is_floating_point():
            what = f"a tensor of {value.dtype}" if isinstance(value, Tensor) else shown(value)
            raise TrunkMismatch(f"the checkpoint's entry {key} is {what}, expected a tensor of floats; save it again")
        if name in tensors and not torch.equal(tensors[name], value.float()):
            first = next(other for other, same in found.items() if same == name)
            raise TrunkMismatch(
                f"the checkpoint holds two different trunks, e.g. {first} and {key}; save the one to distil from alone"
            )
        tensors[name] = value.float()
    return tensors


def shown(value: Any) -> str:
    """A value's type for messages, and short texts themselves."""
    return "None" if value is None else f"a {type(value).__name__} ({value!r:.40})"
