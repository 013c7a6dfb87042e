"""A teacher that sees views at a size of its own: rendering, identity, pairing by grid, training from its store."""

import json
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError
from tiny import CARD, HEAD, tiny_cache, tiny_train

from pipeline.augmented_views import render
from pipeline.cache.errors import CacheMismatch
from pipeline.cache.extraction.extract import extract
from pipeline.cache.manifest.identity import identity_from_config
from pipeline.cache.store import Store
from pipeline.cache.tools.repack import repack
from pipeline.cache.tools.verify import verify
from pipeline.cost_estimates.estimate import estimate_costs
from pipeline.cost_estimates.estimate_text import describe
from pipeline.datasets import load_dataset, read_image, read_label
from pipeline.training.loop import train
from pipeline.training.run_folder import RunFolder
from pipeline.training.setup import open_store, setup
from pipeline.weights import load_teacher
from sward.align import pair_levels
from sward.contracts import Batch, StudentOutput
from sward.levels import TeacherChannels, cell_of, nearest
from sward.methods import FitNetConfig, KDConfig, SwardConfig
from sward.methods.base import paired_tensors
from sward.pixels import normaliser

CHANNELS = {"s4": 32, "s8": 64, "s16": 128, "s32": 256}
STUDENT = ["s4", "s8", "s16", "s32"]


def own_size(folder, side=256, **changes):
    plain = tiny_cache(folder)
    teacher = plain.teacher.model_dump() | {"size": (side, side)}
    return tiny_cache(folder, teacher=teacher, codec={"kind": "fp32"}, store=str(folder / "own.zarr"), **changes)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    config = own_size(tmp_path_factory.mktemp("own"), mean=(0.5, 0.4, 0.3), std=(0.2, 0.2, 0.2))
    extract(config)
    return config


def seen_again(config, record):
    """The record's view for the teacher, rendered from the source at the teacher's size."""
    samples = {s.digest: s for s in load_dataset(config.dataset, config.split).samples}
    source = samples[record.digest]
    return render(read_image(source), read_label(source), record.view, config.teachers_size_of(record.subset))[0]


@pytest.mark.parametrize("subset", ["train", "val"])
def test_features_are_those_of_a_direct_call_on_the_view_rendered_at_the_teachers_size(made, subset):
    store, teacher = Store(made.store), load_teacher(made.teacher)
    for record in store.records[subset][:3]:
        image = torch.from_numpy(seen_again(made, record).copy())
        normalise = normaliser(*made.teacher.normalisation, torch.device("cpu"))
        direct = teacher(normalise(image.permute(2, 0, 1))[None])
        for level, f in store.features(record).items():
            assert f.shape[-1] == 256 // int(level[1:])
            torch.testing.assert_close(f, direct[level][0], rtol=1e-4, atol=1e-4)


def test_the_students_image_is_that_of_a_store_without_a_teacher_size(made, tmp_path):
    extract(tiny_cache(tmp_path))
    plain, own = Store(tmp_path / "store.zarr"), Store(made.store)
    for a, b in zip(plain.records["train"], own.records["train"], strict=True):
        assert a.view == b.view
        assert np.array_equal(plain.arrays(a, ["image"])["image"], own.arrays(b, ["image"])["image"])


def test_teacher_and_student_are_normalised_apart(made):
    store = Store(made.store)
    assert store.normalisation == ([0.5, 0.4, 0.3], [0.2, 0.2, 0.2])
    assert store.identity["teacher.mean"] == [0.485, 0.456, 0.406]


def test_both_sizes_are_in_the_identity_and_a_store_of_another_size_is_refused(made, tmp_path):
    found = identity_from_config(made)
    assert (found["input.size"], found["teacher.size"], found["teacher.eval_size"]) == (
        [64, 64],
        [256, 256],
        [256, 256],
    )
    for side in (None, (128, 128)):
        other = made.model_copy(update={"teacher": made.teacher.model_copy(update={"size": side})})
        with pytest.raises(CacheMismatch, match=r"teacher\.size: expected .*, found \[256, 256\]"):
            train(tiny_train(tmp_path, other))


def test_a_store_without_a_teacher_size_has_the_fields_it_had(tmp_path):
    config = tiny_cache(tmp_path)
    assert not {"teacher.size", "teacher.eval_size", "teacher.mean"} & set(identity_from_config(config))
    assert "size" not in config.recorded()["teacher"]
    extract(config)
    assert Store(config.store).teachers_size("train") == (64, 64)


def test_the_whole_store_is_verified_and_can_be_repacked(made, tmp_path):
    assert verify(Path(made.store), 3, config=made).problems == []
    repack(Path(made.store), tmp_path / "int8.zarr", "int8")
    assert verify(tmp_path / "int8.zarr", 3, config=made).problems == []


def test_sward_kd_and_a_feature_method_train_from_it(made, tmp_path):
    methods = ({"kind": "sward", "mwad": {"gain": 2.0}}, {"kind": "fitnet", "level": "s16"}, {"kind": "kd"})
    for i, method in enumerate(methods):
        config = tiny_train(tmp_path, made, method=method, head=HEAD, name=f"run-{i}", steps=3)
        if method["kind"] == "kd":
            train(config.head_run())
        assert (train(config) / "student.safetensors").is_file()


def test_the_teacher_in_the_loop_is_refused_with_the_reason(made, tmp_path):
    with pytest.raises(ValueError, match=r"teacher: online runs on the stored views"):
        train(tiny_train(tmp_path, made, teacher="online"))


def test_a_plan_states_the_bytes_of_the_teachers_grids(made):
    plan, grids = estimate_costs(made), [256 // s for s in (4, 8, 16, 32)]
    values = sum(c * g * g for c, g in zip(CHANNELS.values(), grids, strict=True))
    records = sum(plan.records.values())
    assert plan.bytes_by_codec["fp16"] == records * (2 * values + 4 * 64 * 64)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"side": 240}, "multiples of 32"),
        ({"size": (64, 128)}, r"proportions of size \(64, 128\), found \(256, 256\)"),
        ({"side": 96, "eval_size": (96, 96), "size": (64, 64)}, r"views of eval_size \(96, 96\) would be 144 × 144"),
    ],
)
def test_sizes_that_do_not_fit_are_refused_before_any_work(tmp_path, changes, said):
    with pytest.raises(ValidationError, match=said):
        own_size(tmp_path, **changes)


# ---- pairing


def zoomed(zoom, **channels):
    return TeacherChannels(channels or CHANNELS, Fraction(zoom))


def test_s16_at_512_pixels_lies_on_the_students_s4_at_128():
    assert cell_of("s16", zoomed(4)) == 4
    assert pair_levels(zoomed(4), STUDENT) == [("s16", "s4"), ("s32", "s8")]
    assert pair_levels(zoomed(4), ["s2", "s4", "s8"]) == [("s8", "s2"), ("s16", "s4"), ("s32", "s8")]


def test_patches_of_14_at_448_pixels_lie_on_s4_at_128():
    assert pair_levels(zoomed(Fraction(448, 128), s14=5), STUDENT) == [("s14", "s4")]


def test_maps_of_one_grid_pair_by_order_and_by_stride_all_with_the_level_of_that_grid():
    maps = zoomed(4, **{f"s16@{b}": 8 for b in (3, 6, 9, 12)})
    assert pair_levels(maps, STUDENT) == list(zip(maps, STUDENT, strict=True))
    assert pair_levels(maps, STUDENT, "stride") == [(level, "s4") for level in maps]


def test_without_a_zoom_pairs_are_what_they_were():
    assert pair_levels(zoomed(1), STUDENT) == pair_levels(list(CHANNELS), STUDENT) == [(s, s) for s in STUDENT]
    assert paired_tensors("s16", list(CHANNELS), STUDENT) == ("s16", "s16")


def test_a_feature_method_pairs_with_the_level_of_the_nearest_grid():
    assert paired_tensors("s16", zoomed(4), STUDENT) == ("s16", "s4")
    assert paired_tensors("deepest", zoomed(4), STUDENT) == ("s32", "s8")
    assert nearest("s4", zoomed(4), STUDENT) == "s4"  # a cell of one pixel: nearest to the finest
    assert paired_tensors("logits", zoomed(4, logits=2), ["s4", "logits"]) == ("logits", "logits")


def batch_of(features):
    return Batch(torch.zeros(2, 3, 128, 128), torch.zeros(2, 128, 128, dtype=torch.long), features, ["a/0", "b/0"])


def random_maps():
    torch.manual_seed(0)
    own = {f"s{s}": torch.randn(2, 6, 128 // s, 128 // s) for s in (4, 8, 16, 32)}
    teacher = {k: torch.randn(2, c, 512 // int(k[1:]), 512 // int(k[1:])) for k, c in CHANNELS.items()}
    return own, teacher


def test_mwad_compares_32_cells_with_32_cells_without_resizing_either():
    own, teacher = random_maps()
    output = StudentOutput(torch.randn(2, 2, 128, 128), own, torch.randn(2, 6, 128, 128))
    config = SwardConfig(gamma=0)
    method = config.build(zoomed(4), dict.fromkeys(own, 6), 2, 6)
    assert method.mwad.pairs == [("s16", "s4"), ("s32", "s8")]
    method.prepare(batch_of(teacher), {k: (f.mean((0, 2, 3)), f.std((0, 2, 3))) for k, f in teacher.items()})
    found = method(output, batch_of(teacher), 0)

    # these pairs named by hand give the same terms
    same = SwardConfig(gamma=0, mwad={"pairing": [("s16", "s4"), ("s32", "s8")]}).build(
        dict(CHANNELS), dict.fromkeys(own, 6), 2, 6
    )
    same.prepare(batch_of(teacher), {k: (f.mean((0, 2, 3)), f.std((0, 2, 3))) for k, f in teacher.items()})
    for name, term in same(output, batch_of(teacher), 0).items():
        assert torch.equal(term, found[name])
    windows = method.mwad._windows(0, teacher["s16"], own["s4"].shape[-2:], None, 0, 0)
    assert (windows.height, windows.width) == teacher["s16"].shape[-2:] == own["s4"].shape[-2:]


def test_fitnet_compares_s16_with_the_students_s4_cell_by_cell():
    own, teacher = random_maps()
    method = FitNetConfig(level="s16").build(zoomed(4), dict.fromkeys(own, 6), 2, 6)
    assert (method.teacher_level, method.student_level) == ("s16", "s4")
    output, batch = StudentOutput(own["s4"], own, own["s4"]), batch_of(teacher)
    assert teacher["s16"].shape[-2:] == own["s4"].shape[-2:]
    found = method(output, batch, 0)
    assert found == method.terms(own["s4"], teacher["s16"], batch, 0)  # neither map is resized


def test_kd_is_taken_at_the_resolution_of_the_teachers_logits():
    logits = torch.randn(2, 2, 128, 128)  # of a head at stride 4 of 512 pixels
    z = torch.randn(2, 2, 32, 32)
    method = KDConfig().build(zoomed(4, s4=8, logits=2), {"s4": 6}, 2, 6)
    found = method(StudentOutput(z, {}, z), batch_of({"logits": logits}), 0)["kd"]
    large = torch.nn.functional.interpolate(z, (128, 128), mode="bilinear")
    p, log_q = logits.softmax(1), large.log_softmax(1)
    loop = sum((p[:, k] * (p[:, k].log() - log_q[:, k])).sum() for k in (0, 1))
    torch.testing.assert_close(found, loop / (2 * 128 * 128), rtol=1e-4, atol=1e-6)


@pytest.fixture(scope="module")
def real(shared, tmp_path_factory):
    """SAM 2's Hiera-T at 512 pixels beside a student's 128, on three frames of ClinicDB: configuration, run folder."""
    folder, source = tmp_path_factory.mktemp("real"), shared / "datasets/cvc-clinicdb"
    for kind in ("images", "masks"):
        (folder / "real" / kind).mkdir(parents=True)
    for name, file in zip(("train-0", "val-0", "test-0"), sorted((source / "images").iterdir()), strict=False):
        (folder / "real/images" / f"{name}.png").write_bytes(file.read_bytes())
        mask = np.asarray(Image.open(source / "masks" / file.name).convert("L")) > 127
        Image.fromarray(mask.astype(np.uint8)).save(folder / "real/masks" / f"{name}.png")
    (folder / "real/card.yaml").write_text(CARD.format(name="real"))
    weights = str(shared / "weights/sam2_hiera_tiny_trunk.fp16.safetensors")
    config = tiny_cache(
        folder,
        dataset=str(folder / "real/card.yaml"),
        teacher={"kind": "hiera", "architecture": "tiny", "weights": weights, "size": (512, 512)},
        size=(128, 128),
    )
    extract(config)
    return config, folder


@pytest.mark.real
def test_real_frames_at_512_pixels_beside_128(real):
    config, _ = real
    store, teacher = Store(config.store), load_teacher(config.teacher)
    record = store.records["train"][1]
    normalise = normaliser(*config.teacher.normalisation, torch.device("cpu"))
    direct = teacher(normalise(torch.from_numpy(seen_again(config, record).copy()).permute(2, 0, 1))[None])
    for level, f in store.features(record).items():
        error = (f - direct[level][0]).norm() / direct[level].norm()
        assert error < 1e-3, level  # half precision
    values = sum(c * (512 // s) ** 2 for c, s in zip((96, 192, 384, 768), (4, 8, 16, 32), strict=True))
    made = estimate_costs(config)
    assert made.bytes_by_codec["fp16"] == 4 * (2 * values + 4 * 128 * 128)
    assert "128×128 pixels, 512×512 for the teacher: 5.96 MB as fp16" in "\n".join(describe(made))


def last_terms(run):
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if "term/task" in line][-1]


@pytest.mark.real
def test_real_frames_train_by_pairs_of_one_grid_the_heads_logits_and_a_feature_method(real):
    """MWAD, KD at the resolution of the teacher's logits, and FitNet: what each compares, and that it trains."""
    config, folder = real
    changes = {"head": HEAD, "steps": 2, "batch_size": 2}
    methods = {
        "mwad": {"kind": "sward", "mwad": {"gain": 2.0}},
        "kd": {"kind": "kd"},
        "fitnet": {"kind": "fitnet", "level": "s16"},
    }
    planned = {name: tiny_train(folder, config, name=name, method=m, **changes) for name, m in methods.items()}
    train(planned["kd"].head_run())
    built = {name: setup(c, open_store(c), RunFolder(c.folder)) for name, c in planned.items()}
    batches = {name: next(iter(run.stream.batches(0, 1))) for name, run in built.items()}
    outputs = {name: run.student(batches[name].images) for name, run in built.items()}

    assert built["mwad"].objective.method.mwad.pairs == [("s16", "s4"), ("s32", "s8")]
    for ours, theirs in (("s4", "s16"), ("s8", "s32")):
        assert outputs["mwad"].features[ours].shape[-2:] == batches["mwad"].features[theirs].shape[-2:]
    assert batches["kd"].features["logits"].shape[-2:] == (128, 128)  # stride 4 of 512 pixels
    fitnet = built["fitnet"].objective.method
    assert (fitnet.teacher_level, fitnet.student_level) == ("s16", "s4")
    assert batches["fitnet"].features["s16"].shape[-2:] == outputs["fitnet"].features["s4"].shape[-2:] == (32, 32)

    lines = {name: last_terms(train(c)) for name, c in planned.items()}
    assert {name: line["step"] for name, line in lines.items()} == dict.fromkeys(methods, 2)
    assert lines["mwad"]["term/attn"] > 0
    assert lines["kd"]["term/kd"] > 0
    assert lines["fitnet"]["term/hint"] > 0
