"""Checkpoints as trainers, wrappers and downloads leave them: they open, or one line says what the file is."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from pipeline.weights import WeightsError, load_teacher
from sward.teachers.hiera import HieraConfig, TrunkMismatch, make_trunk


@pytest.fixture(scope="module")
def state():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return {name: tensor.detach().clone() for name, tensor in make_trunk("pocket").state_dict().items()}


@pytest.fixture(scope="module")
def digest(state, tmp_path_factory):
    path = tmp_path_factory.mktemp("bare") / "bare.pt"
    torch.save(state, path)
    return loaded(path)


def loaded(path):
    return load_teacher(HieraConfig(architecture="pocket", weights=str(path))).digest()


def full(state, prefix="image_encoder.trunk."):
    return {prefix + name: tensor for name, tensor in state.items()}


def of_transformers(state):
    """The names of transformers' Sam2Model."""
    names = {".norm1.": ".layer_norm1.", ".norm2.": ".layer_norm2.", "patch_embed.proj.": "patch_embed.projection."}
    names |= {".mlp.layers.0.": ".mlp.proj_in.", ".mlp.layers.1.": ".mlp.proj_out."}
    found = {}
    for name, tensor in state.items():
        for own, theirs in names.items():
            name = name.replace(own, theirs)
        found[name] = tensor
    return found


OPENED = {
    "DDP": lambda s: {"model": full(full(s), "module.")},
    "torch.compile": lambda s: full(full(s), "_orig_mod."),
    "DDP of a compiled model": lambda s: full(full(s), "module._orig_mod."),
    "a compiled encoder": lambda s: full(s, "image_encoder._orig_mod.trunk."),
    "DDP of the trunk": lambda s: full(s, "image_encoder.trunk.module."),
    "Lightning": lambda s: {"state_dict": full(full(s), "model."), "epoch": 1, "pytorch-lightning_version": "2.5"},
    "Lightning, wrapped twice": lambda s: {"state_dict": full(full(s), "model.sam2_model.")},
    "sam2_model": lambda s: full(full(s), "sam2_model."),
    "model_state_dict": lambda s: {"model_state_dict": full(s), "optimizer_state_dict": {"state": {0: 1}}},
    "a container in a container": lambda s: {"model": {"state_dict": full(s)}},
    "an empty entry beside the full one": lambda s: {"model": None, "state_dict": full(s)},
    "transformers": lambda s: (
        full(of_transformers(s), "vision_encoder.backbone.") | {"no_memory_embedding": s["pos_embed"]}
    ),
    "transformers, its vision model": lambda s: full(of_transformers(s), "backbone."),
    "transformers in Lightning": lambda s: {"state_dict": full(of_transformers(s), "model.vision_encoder.backbone.")},
    "the same trunk twice": lambda s: full(s) | full(full(s), "model."),
    "adapters elsewhere": lambda s: full(s) | {"sam_mask_decoder.q.lora_A.default.weight": torch.ones(1)},
    "integer entries elsewhere": lambda s: {"model": full(s), "optimizer": {"state": {0: torch.ones(1)}}},
    "double precision": lambda s: {name: tensor.double() for name, tensor in full(s).items()},
}


@pytest.mark.parametrize("kind", OPENED)
def test_it_opens_as_the_same_teacher(kind, state, digest, tmp_path):
    torch.save(OPENED[kind](state), tmp_path / "x.pt")
    assert loaded(tmp_path / "x.pt") == digest


@pytest.mark.parametrize(
    ("name", "write"), [("x.pt", save_file), ("x.safetensors", torch.save), ("weights", save_file)]
)
def test_the_format_is_recognised_by_the_bytes_not_the_name(name, write, state, digest, tmp_path):
    write(full(state), tmp_path / name)
    assert loaded(tmp_path / name) == digest


def two_trunks(state):
    return full(state) | full(full({name: tensor + 1 for name, tensor in state.items()}), "model.")


LORA = "base_model.model.image_encoder.trunk."
REFUSED = {
    "model is None": (lambda s: {"model": None}, r"entry 'model' is None, expected tensors by name; save"),
    "state_dict is a text": (lambda s: {"state_dict": "best.pt"}, r"entry 'state_dict' is a str \('best.pt'\)"),
    "integer keys": (lambda s: dict(enumerate(s.values())), r"keys like 0 \(int\), expected the names of tensors"),
    "integer keys within": (lambda s: {"model": {0: s["pos_embed"]}}, r"keys like 0 \(int\)"),
    "a text for a tensor": (lambda s: full(s) | {"image_encoder.trunk.pos_embed": "x"}, r"pos_embed is a str \('x'\)"),
    "None for a tensor": (
        lambda s: full(s) | {"image_encoder.trunk.pos_embed": None},
        r"pos_embed is None, expected a",
    ),
    "a list for a tensor": (lambda s: s | {"pos_embed": [1.0]}, r"pos_embed is a list \(\[1.0\]\)"),
    "integers for weights": (lambda s: {k: v.int() for k, v in s.items()}, r"is a tensor of torch.int32, expected"),
    "two trunks": (two_trunks, r"two different trunks, e.g. image_encoder.trunk.pos_embed and model.image"),
    "LoRA": (
        lambda s: full(s, LORA) | {LORA + "blocks.0.attn.qkv.lora_A.default.weight": s["pos_embed"]},
        r"adapters that are not merged .*lora_A.*merge_and_unload\(\)",
    ),
    "PEFT's base layers": (
        lambda s: {k.replace(".qkv.", ".qkv.base_layer."): v for k, v in full(s, LORA).items()},
        r"adapters that are not merged .*base_layer",
    ),
    "nothing": (lambda s: {}, "no Hiera trunk in the checkpoint"),
    "an empty model": (lambda s: {"model": {}}, "no Hiera trunk in the checkpoint"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_no_trunk_is_said_in_one_line(kind, state, tmp_path):
    make, said = REFUSED[kind]
    torch.save(make(state), tmp_path / "x.pt")
    with pytest.raises(TrunkMismatch, match=said) as refusal:
        loaded(tmp_path / "x.pt")
    assert "\n" not in str(refusal.value)


FILES = {
    "a web page": (b"<html>404 Not Found</html>", "it is a web page"),
    "a web page in capitals": (b"\n <!DOCTYPE html>\n<HTML>", "it is a web page"),
    "an error of a server": (b'{"error":"Repository not found"}', "error message of a server"),
    "an error in XML": (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "it is a web page"),
    "an LFS pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n", "git lfs pull"),
    "an empty file": (b"", "the file is empty"),
    "an archive": (b"\x1f\x8b\x08\0" + bytes(60), "compressed archive; unpack it"),
    "text": (b"weights are here", "no known format of a checkpoint"),
    "zeros": (bytes(1000), "cannot read"),
}


@pytest.mark.parametrize("name", ["x.pt", "x.safetensors"])
@pytest.mark.parametrize("kind", FILES)
def test_a_file_that_is_no_checkpoint_is_named_for_what_it_is(kind, name, tmp_path):
    content, said = FILES[kind]
    (tmp_path / name).write_bytes(content)
    said = "cannot read" if name == "x.safetensors" and kind in ("text", "zeros") else said
    with pytest.raises(WeightsError, match=said) as refusal:
        loaded(tmp_path / name)
    assert "\n" not in str(refusal.value)
    assert "holds more than tensors" not in str(refusal.value)


def test_numbers_of_numpy_are_named_with_the_remedy(state, tmp_path):
    torch.save({"model": full(state), "best": np.float64(0.5)}, tmp_path / "x.pt")
    with pytest.raises(WeightsError, match=r"numbers of numpy beside the tensors.*float\(\)"):
        loaded(tmp_path / "x.pt")
