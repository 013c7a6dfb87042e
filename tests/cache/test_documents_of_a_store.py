"""Plans and receipts of other shapes, without a checksum that would tell: the file is named with the remedy."""

import json
import shutil

import pytest

from pipeline.cache.errors import StoreDamaged
from pipeline.cache.manifest.identity import digest
from pipeline.cache.store import Store

SHAPES = {
    "a list": lambda plan: [plan],
    "no units": lambda plan: {k: v for k, v in plan.items() if k != "units"},
    "no content id": lambda plan: {k: v for k, v in plan.items() if k != "content_id"},
    "text for a number": lambda plan: plan | {"shard_records": "4"},
    "levels without a number": lambda plan: plan | {"channels": {"deep": 8}},
    "a list of channels": lambda plan: plan | {"channels": [8]},
    "a unit that is a text": lambda plan: plan | {"units": ["train-00000"]},
    "a record without a view": lambda plan: changed(plan, lambda record: record.pop("view")),
    "a view without a box": lambda plan: changed(plan, lambda record: record["view"].pop("top")),
    "a view with more": lambda plan: changed(plan, lambda record: record["view"].update(zoom=2)),
    "a row below zero": lambda plan: changed(plan, lambda record: record.update(row=-1)),
    "a size of three": lambda plan: changed(plan, lambda record: record.update(image_size=[1, 2, 3])),
    "another content id": lambda plan: plan | {"content_id": "0" * 64},
    "other classes under the same content id": lambda plan: identified(plan, {"data.classes": ["a", "b", "c"]}, False),
    "an unknown precision": lambda plan: identified(plan, {"precision": "fp7"}),
    "a size that is a number": lambda plan: identified(plan, {"input.size": 64}),
    "a size of one number": lambda plan: identified(plan, {"input.eval_size": [64]}),
    "a mean of text": lambda plan: identified(plan, {"input.mean": ["a", "b", "c"]}),
    "a deviation of two": lambda plan: identified(plan, {"input.std": [0.5, 0.5]}),
    "no classes": lambda plan: identified(plan, {"data.classes": []}),
    "no channels at a level": lambda plan: plan | {"channels": plan["channels"] | {"s4": 0}},
    "fewer than no channels": lambda plan: plan | {"channels": plan["channels"] | {"s4": -3}},
    "no teacher": lambda plan: plan | {"config": {}},
    "a unit twice": lambda plan: plan | {"units": [*plan["units"], plan["units"][0]]},
    "a shard twice": lambda plan: plan | {"units": [*plan["units"], plan["units"][0] | {"name": "train-99999"}]},
}


def identified(plan, changes, with_its_id=True):
    """Another identity, with the content id that belongs to it or that of before."""
    identity = plan["identity"] | changes
    return plan | {"identity": identity} | ({"content_id": digest(identity)} if with_its_id else {})


def changed(plan, change):
    change(plan["units"][0]["records"][0])
    return plan


@pytest.fixture
def store(cache, tmp_path):
    shutil.copytree(cache.store, tmp_path / "store.zarr")
    return tmp_path / "store.zarr"


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_a_plan_of_another_shape_is_named_with_the_remedy(store, shape):
    file = store / "plan" / "0000.json"
    plan = json.loads(file.read_text())
    plan.pop("seal")
    file.write_text(json.dumps(shape(plan)))
    with pytest.raises(StoreDamaged, match=r"damaged file: .*0000.json .*restore it from a copy"):
        Store(store)


@pytest.mark.parametrize("content", [b"", b"[]", b"null", b"\xff", b"\0" * 9, b"[" * 100_000], ids=str)
def test_a_plan_that_is_no_document_is_named(store, content):
    (store / "plan" / "0000.json").write_bytes(content)
    with pytest.raises(StoreDamaged, match=r"damaged file: .*0000.json"):
        Store(store)


@pytest.mark.parametrize("files", [[], {"a": 1}, {"a": {"bytes": "1"}}, None], ids=str)
def test_a_receipt_of_another_shape_is_named(store, files):
    file = sorted((store / "receipts").glob("*.json"))[0]
    receipt = json.loads(file.read_text())
    receipt.pop("seal")
    file.write_text(json.dumps(receipt | {"files": files}))
    with pytest.raises(StoreDamaged, match=rf"damaged file: .*{file.name} .*delete it"):
        Store(store)


def level(**changes):
    """Changes to the statistics of level s4."""
    return lambda levels: levels | {"s4": levels["s4"] | changes}


STATISTICS = {
    "none": lambda levels: {},
    "a list": lambda levels: [levels],
    "not there": lambda levels: None,
    "without a level": lambda levels: {name: value for name, value in levels.items() if name != "s4"},
    "of no values": level(count=0),
    "of a text": level(count="9"),
    "of one channel": level(sum=[1.0]),
    "of text": level(sum_squares=["a"]),
    "of nothing": level(sum=None),
    "of no numbers": level(sum_squares=[float("nan")]),
    "without end": level(max=float("inf")),
}


@pytest.mark.parametrize("kind", STATISTICS)
def test_a_receipt_with_other_statistics_is_named(store, kind):
    file = sorted((store / "receipts").glob("train*.json"))[0]
    receipt = json.loads(file.read_text())
    receipt.pop("seal")
    file.write_text(json.dumps(receipt | {"levels": STATISTICS[kind](receipt["levels"])}))
    with pytest.raises(StoreDamaged, match=rf"damaged file: .*{file.name} .*delete it and run the command that made"):
        Store(store)


def test_a_plan_that_was_copied_beside_itself_is_named(store):
    shutil.copy(store / "plan" / "0000.json", store / "plan" / "0002.json")
    with pytest.raises(StoreDamaged, match=r"damaged file: .*0002\.json .unit train-00000 is planned twice"):
        Store(store)
