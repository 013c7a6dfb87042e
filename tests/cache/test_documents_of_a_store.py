"""Plans and receipts of other shapes, without a checksum that would tell: the file is named with the remedy."""

import json
import shutil

import pytest

from pipeline.cache.errors import StoreDamaged
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
}


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
