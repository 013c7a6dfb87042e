"""Channels last: another order in memory, the same student."""

import logging

import pytest
import torch
from tiny import tiny_cache, tiny_train

from pipeline.cache.extraction.extract import extract
from pipeline.config import ConfigError, load_config, validate
from pipeline.files import read_json
from pipeline.training.config import TrainConfig
from pipeline.training.device.memory_format import set_memory_format
from pipeline.training.loop import train
from pipeline.training.teacher.head_config import HeadFit
from sward.contracts import Batch
from sward.methods.plain import PlainConfig
from sward.objective import Objective
from sward.students import DeepLabV3Config, SMPConfig, UNeXtConfig, build_student


def loss_and_gradients(student, dtype):
    """Of one step of cross-entropy, with dropout drawn from a fixed state."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(2, 3, 64, 64, generator=generator, dtype=dtype)
    batch = Batch(images, torch.randint(2, (2, 64, 64), generator=generator), {}, ["a/0", "b/0"])
    objective = Objective(PlainConfig().build({}, student.channels, 2, student.classifier.in_channels))
    torch.manual_seed(1)
    loss = objective(student.train()(images), batch, 0).total
    loss.backward()
    return {"loss": loss.detach()} | {name: p.grad for name, p in student.named_parameters()}


# DeepLabV3 in float64: it normalises a channel over the two images' one value each, which magnifies any rounding; and
# without dropout, whose mask is drawn in the order of memory
@pytest.mark.parametrize(
    ("network", "dtype", "tolerance"),
    [(UNeXtConfig(), torch.float32, 1e-5), (DeepLabV3Config(dropout=0), torch.float64, 1e-9)],
    ids=lambda value: getattr(value, "kind", None),
)
def test_a_step_has_the_loss_and_the_gradients_that_it_has_in_the_usual_order(network, dtype, tolerance):
    usual, arranged = (build_student(network, 2, 0).to(dtype) for _ in range(2))
    arranged.to(memory_format=torch.channels_last)
    with torch.no_grad():
        levels = arranged.eval()(torch.randn(2, 3, 64, 64, dtype=dtype)).features.values()
    assert all(f.is_contiguous(memory_format=torch.channels_last) for f in levels)
    expected, found = loss_and_gradients(usual, dtype), loss_and_gradients(arranged, dtype)
    assert found.keys() == expected.keys()
    norm = float(torch.stack([g.norm() for g in expected.values()]).norm())
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=tolerance, atol=tolerance * norm, msg=name)


@pytest.fixture
def config(tmp_path):
    return tiny_train(tmp_path, tiny_cache(tmp_path))


AUTO = {"channels_last": "auto"}


@pytest.mark.parametrize(
    "asked", [AUTO, {"channels_last": True}, {"precision": "bf16-mixed"}, {"precision": "16-mixed"}]
)
def test_a_student_has_the_order_that_its_run_asks_for(config, asked):
    students = [build_student(UNeXtConfig(), 2, 0).eval() for _ in range(2)]
    usual = {"channels_last": False}
    for student, changes in zip(students, (usual, usual | asked), strict=True):
        set_memory_format(student, config.model_copy(update=changes).puts_channels_last)
    with torch.no_grad():
        usual, arranged = (s(torch.randn(2, 3, 64, 64)).features.values() for s in students)
    assert all(f.is_contiguous() for f in usual)
    assert all(f.is_contiguous(memory_format=torch.channels_last) for f in arranged)


def test_another_order_makes_another_run(config):
    usual, bf16 = {"channels_last": False}, {"precision": "bf16-mixed"}
    changed = [config.model_copy(update=u).identity() for u in (usual, {"channels_last": True}, bf16)]
    assert len(set(changed)) == 3
    assert config.model_copy(update=bf16 | usual).identity() == changed[2]


def test_the_faster_order_is_the_default_and_part_of_the_identity_where_it_is_another_one(config):
    def identity(**changes):
        return config.model_copy(update=changes).identity()

    assert config.channels_last == "auto"
    assert identity(device="cpu") == identity(channels_last=True)
    assert identity(device="cuda") == identity(channels_last=False) != identity(channels_last=True)
    assert identity(precision="bf16-mixed") == identity(precision="bf16-mixed", channels_last=False)
    assert not config.model_copy(update={"head": HeadFit(steps=3)}).head_run().puts_channels_last


def test_students_that_gain_nothing_keep_the_usual_order(config):
    for encoder, faster in (
        ("mit_b0", False),
        ("tu-mobilenetv3_small_100", False),
        ("tu-mobilenetv4_conv_small", True),
    ):
        student = SMPConfig(architecture="linknet", encoder=encoder)
        assert config.model_copy(update={"student": student}).puts_channels_last is faster


def test_a_machine_without_a_gpu_takes_auto_for_its_cpu(config, monkeypatch):
    anywhere = config.model_copy(update={"device": "auto"})
    for has_gpu in (False, True):
        monkeypatch.setattr(torch.cuda, "is_available", lambda has_gpu=has_gpu: has_gpu)
        assert anywhere.puts_channels_last is not has_gpu


def test_a_resolved_file_from_before_the_setting_means_the_usual_order(config, tmp_path):
    """Runs of that time keep their identity; a file as people write it takes today's default."""
    values = config.model_dump(mode="json")
    del values["channels_last"]
    older = validate(TrainConfig, values, "older")
    assert older.channels_last is False
    assert older.identity() == config.model_copy(update={"channels_last": False}).identity()
    assert (
        validate(TrainConfig, {k: values[k] for k in ("name", "cache", "student", "steps")}, "x").channels_last
        == "auto"
    )
    with pytest.raises(ConfigError, match="channels_last"):
        validate(TrainConfig, values | {"channels_last": "maybe"}, "x")


def test_a_run_says_its_threads_and_order_and_keeps_the_order_it_had(config, caplog):
    extract(config.cache)
    with caplog.at_level(logging.INFO):
        folder = train(config.model_copy(update={"steps": 1}))
    assert f"tiny: on cpu, {torch.get_num_threads()} threads, maps in channels-last order" in caplog.text
    facts, saved = read_json(folder / "run.json"), load_config(TrainConfig, folder / "config.yaml")
    assert (facts["channels_last"], facts["threads"]) == (True, torch.get_num_threads())
    assert saved.channels_last is True
    assert saved.folder == folder
