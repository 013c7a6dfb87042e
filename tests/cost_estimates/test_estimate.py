"""`sward plan`: its sizes are those the extraction then has, its verdicts follow from what was measured."""

import pytest
import yaml
from joined import HIERA, VIT, two_caches
from tiny import HEAD, tiny_cache, tiny_train

from pipeline.cache.extraction.extract import extract
from pipeline.cache.format.arrays import array_specs
from pipeline.cache.format.codecs import CODECS, array_bytes
from pipeline.cache.tools.inspect import inspect
from pipeline.cli import main
from pipeline.config import parse_size
from pipeline.cost_estimates import student_speed
from pipeline.cost_estimates.budget import Choice, choices, recommend
from pipeline.cost_estimates.calibration import Reading, measure_decoding, measure_disk
from pipeline.cost_estimates.estimate import CostEstimate, estimate_costs, record_bytes
from pipeline.cost_estimates.estimate_text import bottleneck, describe, duration, verdict
from pipeline.cost_estimates.student_speed import ReadDemand

CHANNELS = {"s4": 32, "s8": 64, "s16": 128, "s32": 256}  # the pocket teacher's
FACTS = ("zarr.json", "0000.json", ".lock", "timing.jsonl")


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Measured for a moment only: the figures are not what is tested."""
    monkeypatch.setattr(student_speed, "BUDGET_SECONDS", 0)
    monkeypatch.setattr("pipeline.cost_estimates.calibration.ROUNDS", 1)
    monkeypatch.setattr("pipeline.cost_estimates.calibration.LEAST_BYTES", 1 << 20)


def test_the_bytes_and_files_planned_are_those_stored(tmp_path):
    config = tiny_cache(tmp_path, codec={"kind": "int8"})
    planned = estimate_costs(config)
    path = extract(config).path
    facts = inspect(path)
    assert planned.records == {s: n["planned"] for s, n in facts["records"].items()}
    assert planned.shards == facts["shards"]["planned"]
    assert facts["bytes"] == pytest.approx(planned.bytes_by_codec["int8"], rel=0.05)  # indices, full labels on top
    assert planned.files == len([p for p in path.rglob("*") if p.is_file() and p.name not in FACTS])


def test_larger_evaluation_views_are_planned_as_what_they_take(tmp_path):
    made = estimate_costs(tiny_cache(tmp_path, eval_size=(512, 512)))
    assert made.evaluation_seconds > 2 * made.view_seconds  # 64 times the pixels
    assert made.extraction_seconds == 12 * made.view_seconds + 5 * made.evaluation_seconds


def test_the_command_says_what_it_costs_and_whether_it_pays(tmp_path, capsys):
    config = tiny_cache(tmp_path)
    (tmp_path / "cache.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
    (tmp_path / "train.yaml").write_text(yaml.safe_dump(tiny_train(tmp_path, config).model_dump(mode="json")))
    command = ["plan", str(tmp_path / "cache.yaml"), "--train", str(tmp_path / "train.yaml"), "--budget", "1MB"]
    command += ["--capacity", "--html", str(tmp_path / "plan.html")]
    assert main(command) == 0
    said = capsys.readouterr().out
    assert "17 (train 12, val 2, test 3) in 5 shards" in said
    assert "<- chosen" in said
    assert "unext with sward at batches of 4" in said
    assert "pays after" in said or "does not pay" in said
    assert "<- recommended" in said
    page = (tmp_path / "plan.html").read_text()
    assert page.count("<svg") == 3
    assert "no step waits from" in page
    assert "| tiny | 2 | fp16 | 64 × 8 H100 |" in said
    assert "Hiera-T → ResUNet++ 1.15×" in said
    assert not list(tmp_path.glob(".sward-plan-*"))


def test_a_budget_that_is_no_size_is_refused(tmp_path, capsys):
    (tmp_path / "cache.yaml").write_text(yaml.safe_dump(tiny_cache(tmp_path).model_dump(mode="json")))
    assert main(["plan", str(tmp_path / "cache.yaml"), "--budget", "lots"]) == 1
    assert "--budget lots: expected a size such as 200GB" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "size"),
    [("200GB", 200 * 10**9), ("1.5 TB", 15 * 10**11), ("2GiB", 2**31), ("3 mib", 3 * 2**20), ("512", 512), ("7B", 7)],
)
def test_sizes_are_decimal_unless_they_say_otherwise(text, size):
    assert parse_size(text) == size


def test_the_views_of_a_codec_are_the_most_that_fit():
    sizes = {"fp16": (100, 50), "int8": (52, 26)}
    found = choices(1000, sizes, images=2, evaluated=4)
    assert found == [Choice("fp16", 4, 1000), Choice("int8", 8, 936)]
    for choice in found:
        training, evaluation = sizes[choice.codec]
        assert 4 * evaluation + 2 * (choice.views + 1) * training > 1000
    assert choices(150, sizes, images=2, evaluated=4) == [Choice("fp16", 0, 0), Choice("int8", 0, 0)]


@pytest.mark.parametrize(
    ("views", "wanted", "best"),
    [
        ({"fp16": 9, "int8": 18, "int6": 22, "int4": 32}, 2, "fp16"),
        ({"fp16": 4, "int8": 8, "int6": 10, "int4": 14}, 2, "int8"),
        ({"fp16": 4, "int8": 8, "int6": 10, "int4": 14}, 10, "int6"),
        ({"fp16": 0, "int8": 1, "int6": 1, "int4": 2}, 2, "int4"),
        ({"fp16": 0, "int8": 1, "int6": 1, "int4": 2}, 4, "int8"),
        ({"fp16": 0, "int8": 0, "int6": 0, "int4": 1}, 4, "int4"),
        ({"fp16": 0, "int8": 0, "int6": 0, "int4": 0}, 1, None),
    ],
)
def test_views_come_before_precision_down_to_int8(views, wanted, best):
    found = recommend([Choice(codec, n, n) for codec, n in views.items()], wanted)
    assert (found.codec if found else None) == best


NEED = ReadDemand("a student", 10, 0.1, CHANNELS, {}, records=100)  # 100 records/s


def made_up(**changes):
    """Half a second a read of a teacher that takes one; a student that needs 100 records a second."""
    values = {"records": {"train": 100, "val": 0, "test": 0}, "bytes_by_codec": {"fp16": 1000}, "shards": 1, "files": 1,
              "free_bytes": 2000, "memory_bytes": 1000, "teacher_seconds": 1.0, "view_seconds": 1.0,
              "evaluation_seconds": 1.0, "demand": NEED,
              "reads": {"fp16": Reading(0.5, 0.4, 0.1)}, "read_bytes": {"fp16": 10}, "codec": "fp16"}  # fmt: skip
    return CostEstimate(**(values | changes))


def test_caching_pays_once_what_it_saves_exceeds_the_extraction():
    assert made_up().break_even_runs(records=200) == 1.0
    assert made_up(view_seconds=2.0).break_even_runs(records=200) == 2.0
    assert made_up(reads={"fp16": Reading(1.5, 1.4, 0.1)}).break_even_runs(records=200) == float("inf")


def test_it_says_where_recomputing_is_cheaper_than_reading():
    assert verdict(made_up()) == "pays after 2.00 runs of 100 records each"
    assert "(cold) reading costs more than recomputing: 1600.00 ms" in verdict(
        made_up(reads={"fp16": Reading(1.5, 0.4, 0.1)})
    )
    assert verdict(made_up(teacher_seconds=0.3)).startswith("does not pay: recomputing a view takes 300.00 ms")
    without = ReadDemand("a student", 10, 0.1, {}, {}, records=100)
    assert "reads nothing of the teacher" in verdict(made_up(demand=without))


@pytest.mark.parametrize(
    ("cold", "warm", "memory", "said"),
    [
        (0.005, 0.001, 0, "the student: the disk gives 200.0 records/s cold"),
        (0.02, 0.001, 0, "THE DISK, at 2.0 times what it gives"),
        (0.02, 0.001, 10**6, "the disk in the first epoch, then the student: the store fits into memory"),
        (0.04, 0.02, 10**6, "THE LOADER, even from memory, at 2.0 times"),
    ],
)
def test_the_bottleneck_is_whatever_gives_less_than_the_student_needs(cold, warm, memory, said):
    fast = {"int8": Reading(0.001, 0.001, 0.0)}
    p = made_up(reads={"fp16": Reading(cold, warm, 0.0)} | fast, memory_bytes=memory)
    assert bottleneck(p).startswith(said)
    assert ("int8 would do" in bottleneck(p)) == said.startswith("THE ")


@pytest.mark.parametrize(("seconds", "text"), [(3.21, "3.2 s"), (600, "10 min"), (36000, "10.0 h")])
def test_durations_are_in_the_unit_that_suits_them(seconds, text):
    assert duration(seconds) == text


def test_a_store_that_leaves_less_than_a_tenth_free_does_not_fit():
    assert made_up().fits
    assert not made_up(free_bytes=1050).fits
    assert any("DOES NOT FIT" in line for line in describe(made_up(free_bytes=1050)))


@pytest.mark.parametrize(
    ("method", "head", "read", "appended"),
    [
        ({"kind": "plain"}, None, {}, {}),
        ({"kind": "at", "level": "s32"}, None, {"s32": 256}, {}),
        ({"kind": "kd"}, HEAD, CHANNELS, {}),
        ({"kind": "kd"}, HEAD | {"tensors": "appended"}, {}, {"logits": 2}),
        ({"kind": "sward"}, None, CHANNELS, {}),
    ],
)
def test_a_student_needs_what_its_method_reads(tmp_path, method, head, read, appended):
    config = tiny_train(tmp_path, tiny_cache(tmp_path), method=method, head=head)
    found = student_speed.measure(config, CHANNELS, 2, (64, 64))
    assert (found.tensors, found.head) == (read, appended)
    assert found.records == 6 * 4
    assert 0 < found.records_per_second < 1e5


def test_a_run_on_joined_stores_is_planned_with_what_it_reads_of_each(tmp_path, capsys):
    """The first teacher's pyramid at 64 px; the second's four maps of 24 channels at its own 128 px, in int8."""
    first, second = two_caches(tmp_path, codec={"kind": "int8"})
    own_size = second.teacher.model_copy(update={"size": (128, 128)})
    second = second.model_copy(update={"teacher": own_size})
    config, sward = tiny_train(tmp_path, (first, second)), tiny_train(tmp_path, first)
    both, alone = estimate_costs(first, config), estimate_costs(first, sward)
    maps = array_specs(CODECS["int8"], dict.fromkeys(second.teacher.levels, 24), (64, 64), (128, 128))
    beside = sum(array_bytes(*spec) for name, spec in maps.items() if name not in ("image", "label"))
    assert both.joined == {second.store: beside}
    assert both.read_bytes == {codec: size + beside for codec, size in alone.read_bytes.items()}
    assert both.demand.tensors == {f"{HIERA}:{level}": c for level, c in CHANNELS.items()} | {
        f"{VIT}:{level}": 24 for level in second.teacher.levels
    }
    assert both.bytes_by_codec == alone.bytes_by_codec
    assert all(both.own_reads[codec].decode < read.decode for codec, read in both.reads.items())

    other = estimate_costs(second, config)  # the same run, its second store planned: pixels are read from the first
    assert other.joined == {first.store: alone.read_bytes["fp16"]}
    assert other.read_bytes["int8"] == both.read_bytes["fp16"]
    assert f"joined with    {first.store}: " in "\n".join(describe(other))

    one = tiny_train(tmp_path, (first, second), method={"kind": "at", "level": f"{HIERA}:s32"})
    assert verdict(estimate_costs(second, one)) == "no benefit: this student reads nothing of the teacher"

    for name, cache in (("a", first), ("b", second)):
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(cache.model_dump(mode="json")))
    values = config.model_dump(mode="json") | {"cache": [str(tmp_path / "a.yaml"), str(tmp_path / "b.yaml")]}
    (tmp_path / "train.yaml").write_text(yaml.safe_dump(values))
    command = ["plan", str(tmp_path / "a.yaml"), "--train", str(tmp_path / "train.yaml")]
    assert main([*command, "--html", str(tmp_path / "plan.html")]) == 0
    assert f"joined with    {second.store}: " in capsys.readouterr().out
    assert main([*command, "--set", "store=elsewhere.zarr", "--set", "views.count=1"]) == 1
    assert "found none of them planned: elsewhere.zarr; plan one of these" in capsys.readouterr().err


def test_reads_and_decoding_are_measured_for_every_codec(tmp_path):
    size = record_bytes("fp16", CHANNELS, (64, 64))
    disk = measure_disk(tmp_path, {"fp16": [size // 2, size // 2], "int8": [size // 4] * 2}, workers=2)
    assert all(min(times) > 0 for times in disk.reads.values())
    assert 0 < disk.write < 1e-3
    assert not list(tmp_path.iterdir())
    for codec in CODECS:
        assert 0 < measure_decoding(codec, {"s8": (64, 8, 8)}, "cpu") < 1
