"""Runs with few labels or none: what they read, what trains them, and what they leave unchanged."""

import json
import logging
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError
from safetensors.torch import load_file, save_file
from tiny import tiny_cache, tiny_dataset, tiny_train, tree

from pipeline.cache.extraction.extract import extract
from pipeline.cache.store import Store
from pipeline.datasets import DatasetError, check, load_dataset
from pipeline.datasets.procedural import render
from pipeline.files import read_json
from pipeline.training import loop
from pipeline.training.inputs.orders import training_orders
from pipeline.training.loop import train
from pipeline.training.run_folder import RunFolder
from pipeline.training.setup import open_store, setup
from sward import seeds
from sward.contracts import IGNORE
from sward.students.inputs import output_for

HALF = {"labels": 0.5, "unlabelled": 0.5, "batch_size": 2}


def prepared(config):
    return setup(config, open_store(config), RunFolder(config.folder))


def step_of(run, step=0):
    return next(iter(run.stream.batches(step, step + 1)))


def gradients(run, batch, total):
    """Gradients of the student for one loss, as the loop would compute them."""
    run.student.zero_grad()
    torch.manual_seed(seeds.torch_seed(run.config.seed, "step", 0))
    output = output_for(run.student.train(), batch)
    total(run.objective(output, batch, 0)).backward()
    return {name: p.grad.clone() for name, p in run.student.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("method", [{"kind": "plain"}, {"kind": "sward"}], ids=["plain", "sward"])
@pytest.mark.parametrize("student", ["unext", "resunetpp", "deeplabv3"])
def test_the_task_loss_has_the_gradient_of_the_labelled_records_alone(cache, tmp_path, method, student):
    """Batch normalisation and dropout included: the two gradients are equal to the bit."""
    config = tiny_train(tmp_path, cache, **HALF, method=method, student={"kind": student})
    mixed, alone = prepared(config), prepared(config.model_copy(update={"unlabelled": 0}))
    batch, labelled = step_of(mixed), step_of(alone)
    assert (batch.labelled, len(batch.ids), labelled.labelled, labelled.ids) == (2, 4, None, batch.ids[:2])
    found, expected = (
        gradients(r, b, lambda losses: losses.weighted["task"]) for r, b in ((mixed, batch), (alone, labelled))
    )
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_class_clusters_are_shaped_by_the_labelled_records_alone(cache, tmp_path):
    config = tiny_train(tmp_path, cache, **HALF, method={"kind": "sward", "beta": 0})
    mixed, alone = prepared(config), prepared(config.model_copy(update={"unlabelled": 0}))
    found, expected = (gradients(r, step_of(r), lambda losses: losses.total) for r in (mixed, alone))
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-6)


def test_features_of_the_unlabelled_records_train_the_student(cache, tmp_path):
    config = tiny_train(tmp_path, cache, **HALF, method={"kind": "sward", "gamma": 0})
    mixed, alone = prepared(config), prepared(config.model_copy(update={"unlabelled": 0}))
    found, expected = (gradients(r, step_of(r), lambda losses: losses.weighted["attn"]) for r in (mixed, alone))
    assert any(not torch.equal(found[name], gradient) for name, gradient in expected.items())


def test_the_unlabelled_records_leave_the_labelled_ones_of_every_step_as_they_were(cache, tmp_path):
    config = tiny_train(tmp_path, cache, **HALF, steps=12)
    mixed, alone = prepared(config), prepared(config.model_copy(update={"unlabelled": 0}))
    seen = set()
    for batch, labelled in zip(mixed.stream.batches(0, 12), alone.stream.batches(0, 12), strict=True):
        assert batch.ids[: batch.labelled] == labelled.ids
        assert (batch.labels[batch.labelled :] == IGNORE).all()
        assert torch.equal(batch.labels[: batch.labelled], labelled.labels)
        assert len(batch.ids) == 4
        seen |= set(batch.ids[batch.labelled :])
    assert len({name.split("/")[0] for name in seen}) == 3  # every image outside the labelled half
    assert seen.isdisjoint(labelled.ids)


@pytest.mark.parametrize(("share", "size"), [(0.5, 4), (0.2, 1), (0.75, 12), (0, 0)])
def test_the_share_of_a_batch_is_the_one_that_was_asked_for(cache, tmp_path, share, size):
    assert tiny_train(tmp_path, cache, batch_size=4, unlabelled=share).unlabelled_size == size


def test_reading_threads_and_resuming_do_not_change_the_batches(cache, tmp_path):
    config = tiny_train(tmp_path, cache, **HALF, steps=8, workers=0)
    plain, threaded = prepared(config), prepared(config.model_copy(update={"workers": 3, "prefetch": 3}))
    whole = [batch.ids for batch in plain.stream.batches(0, 8)]
    assert [batch.ids for batch in threaded.stream.batches(0, 8)] == whole
    assert [batch.ids for batch in threaded.stream.batches(5, 8)] == whole[5:]


def test_a_run_on_half_of_the_labels_trains_on_these_images_and_says_so(cache, tmp_path):
    config = tiny_train(tmp_path, cache, labels=0.5)
    run = prepared(config)
    assert len({r.digest for r in run.stream.order.records}) == 3
    folder = train(config)
    assert "labels" in read_json(folder / "run.json")["sources"]
    assert config.identity() != tiny_train(tmp_path, cache).identity()


def test_settings_without_effect_leave_identities_alone(cache, tmp_path):
    stated = {"labels": 1, "unlabelled": 0, "init": None}
    config = tiny_train(tmp_path, cache, **stated)
    assert config.identity() == tiny_train(tmp_path, cache).identity()
    assert (
        tiny_train(tmp_path, cache, labels={"fraction": 1, "by": "sequence", "seed": 3}).identity() == config.identity()
    )
    assert tiny_train(tmp_path, cache, labels=0.5).identity() != config.identity()
    assert tiny_train(tmp_path, cache, unlabelled=0.5).identity() != config.identity()


def test_sequences_are_drawn_from_the_parts_of_a_cross_validation(tmp_path):
    cache = tiny_cache(tmp_path, split="folds")
    extract(cache)
    run = prepared(tiny_train(tmp_path, cache, fold=0, labels={"fraction": 0.5, "by": "sequence"}))
    groups = {r.group for r in run.stream.order.records}
    assert 0 < len(groups) < len({r.group for r in run.store.records["train"]})


def test_a_draw_by_sequence_without_sequences_is_refused(cache, tmp_path):
    with pytest.raises(ValueError, match=r"labels.by is sequence, and 6 training images have none"):
        prepared(tiny_train(tmp_path, cache, labels={"fraction": 0.5, "by": "sequence"}))


def test_a_run_without_labels_pretrains_and_another_is_finetuned_from_it(cache, tmp_path):
    """The encoder is trained by features alone; the run that starts from it has its weights at step 0."""
    first = train(tiny_train(tmp_path, cache, name="pretrain", labels=0, method={"kind": "sward", "gamma": 0}))
    lines = [json.loads(line) for line in (first / "metrics.jsonl").read_text().splitlines()]
    assert all(line["term/task"] == 0 for line in lines if "term/task" in line)
    assert read_json(first / "run.json")["best_step"] == 6  # the last student, not the one of the best Dice
    config = tiny_train(tmp_path, cache, name="finetune", init=str(first), labels=0.5)
    run = prepared(config)
    saved = load_file(first / "student.safetensors")
    assert all(torch.equal(tensor, run.student.state_dict()[f"{name}"]) for name, tensor in saved.items())
    folder = train(config)
    assert read_json(folder / "run.json")["status"] == "finished"
    assert config.identity() != tiny_train(tmp_path, cache, name="finetune", labels=0.5).identity()


def test_pretraining_changes_the_encoder(cache, tmp_path):
    config = tiny_train(tmp_path, cache, labels=0, method={"kind": "sward", "gamma": 0})
    before = {k: v.clone() for k, v in prepared(config).student.state_dict().items()}
    after = load_file(train(config) / "student.safetensors")
    assert any(not torch.equal(before[k], after[k]) for k in after if k.startswith("encoder"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": 0, "method": {"kind": "plain"}}, "learns from labels alone"),
        ({"labels": 0, "method": {"kind": "sward", "beta": 0}}, "learns from labels alone"),
        ({"labels": 0, "method": {"kind": "sward", "balance": "gradient"}}, "leave `balance` out"),
        ({"labels": 0.5, "unlabelled": 0.9, "batch_size": 4}, "takes 36 records without labels a step, found 6"),
    ],
)
def test_runs_that_could_not_learn_or_fill_their_batches_are_refused(cache, tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        prepared(tiny_train(tmp_path, cache, **changes))


def test_unlabelled_shares_without_a_place_are_refused(cache, tmp_path):
    with pytest.raises(ValidationError, match="leave `unlabelled` out if labels is 0"):
        tiny_train(tmp_path, cache, unlabelled=0.5, labels=0)


def test_processes_split_both_parts_of_a_step_and_each_has_records_of_both(cache, tmp_path):
    config = tiny_train(tmp_path, cache, labels=0.5, unlabelled=0.6, batch_size=2)
    whole = training_orders(config, Store(cache.store))
    shares = [training_orders(config, Store(cache.store), 2, rank) for rank in (0, 1)]
    for part, sizes in (("main", [1, 1]), ("unlabelled", [2, 1])):
        first = [getattr(share, part).epoch(0)[0] for share in shares]
        assert [len(records) for records in first] == sizes
        assert first[0] + first[1] == getattr(whole, part).epoch(0)[0]
    with pytest.raises(ValueError, match="smallest batch has 3 records, fewer than the 4 processes"):
        training_orders(config.model_copy(update={"batch_size": 4, "unlabelled": 0.4}), Store(cache.store), 4, 0)


def test_a_head_needs_labels(cache, tmp_path):
    with pytest.raises(ValueError, match="a teacher's head is fitted on labels"):
        tiny_train(tmp_path, cache, labels=0, head={"steps": 3}).head_run()
    fit = tiny_train(tmp_path, cache, labels=0.5, unlabelled=0.5, head={"steps": 3}).head_run()
    assert (fit.labels.fraction, fit.unlabelled) == (0.5, 0)


# --- images without masks -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def frames(tmp_path_factory):
    """A store whose card has four images without masks in a folder, and its configuration."""
    folder = tmp_path_factory.mktemp("frames")
    cache = tiny_cache(folder)
    (folder / "tiny" / "frames").mkdir()
    for n in range(4):
        Image.fromarray(render(9, n, (72, 80))[0]).save(folder / "tiny" / "frames" / f"{n}.png")
    card = folder / "tiny" / "card.yaml"
    card.write_text(card.read_text() + "unlabelled: frames/*.png\n")
    extract(cache)
    return cache


def test_images_without_masks_have_views_and_features_and_no_label(frames):
    store = Store(frames.store)
    bare = [r for r in store.records["train"] if not r.labelled]
    assert sorted({r.id for r in bare}) == [f"frames/{n}" for n in range(4)]
    assert len(bare) == 8
    for record in bare:
        arrays = store.arrays(record)
        assert (arrays["label"] == IGNORE).all()
        assert np.abs(store.features(record)["s16"].numpy()).sum() > 0


def test_runs_read_them_only_where_they_ask_for_them(frames, tmp_path):
    assert all(r.labelled for r in prepared(tiny_train(tmp_path, frames)).stream.order.records)
    run = prepared(tiny_train(tmp_path, frames, unlabelled=0.5, batch_size=4))
    batch = step_of(run)
    bare = {r.name for r in run.store.records["train"] if not r.labelled}
    assert set(batch.ids[batch.labelled :]) <= bare
    assert (batch.labels[batch.labelled :] == IGNORE).all()
    train(run.config)


def test_a_card_of_which_no_training_image_has_a_mask_pretrains(tmp_path):
    cache = tiny_cache(tmp_path)
    for mask in (tmp_path / "tiny" / "masks").glob("train-*"):
        mask.unlink()
    card = tmp_path / "tiny" / "card.yaml"
    text = card.read_text().replace("train: train-*, val: val-*, test: test-*", "val: val-*, test: test-*")
    card.write_text(text + "unlabelled: images/*.png\n")
    extract(cache)
    with pytest.raises(ValueError, match="no training images with labels; to train the encoder by features alone"):
        prepared(tiny_train(tmp_path, cache))
    assert train(tiny_train(tmp_path, cache, labels=0)).is_dir()


def test_images_of_the_pattern_that_have_masks_stay_labelled(tmp_path):
    card = tiny_dataset(tmp_path / "mixed")
    (tmp_path / "mixed" / "masks" / "train-1.png").unlink()
    with pytest.raises(DatasetError, match="missing mask"):
        load_dataset(card, "random")
    card.write_text(card.read_text() + "unlabelled: images/*.png\n")
    loaded = load_dataset(card, "random")
    assert [s.id for s in loaded.samples if not s.labelled] == ["train-1"]
    assert not check(card, "random")


def test_a_frame_that_is_also_a_test_image_is_refused(tmp_path):
    card = tiny_dataset(tmp_path / "leak")
    (tmp_path / "leak" / "frames").mkdir()
    shutil.copy(tmp_path / "leak" / "images" / "test-0.png", tmp_path / "leak" / "frames" / "a.png")
    card.write_text(card.read_text() + "unlabelled: frames/*.png\n")
    with pytest.raises(DatasetError, match="same bytes"):
        load_dataset(card, "random")


def test_a_pattern_that_finds_nothing_is_refused(tmp_path):
    card = tiny_dataset(tmp_path / "none")
    card.write_text(card.read_text() + "unlabelled: frames/*.png\n")
    with pytest.raises(DatasetError, match="nothing without a mask matches frames"):
        load_dataset(card, "random")


def test_images_without_masks_are_added_to_a_store_and_change_no_file_of_it(tmp_path):
    cache = tiny_cache(tmp_path)
    extract(cache)
    before = {
        name: data for name, data in tree(tmp_path / "store.zarr").items() if name.startswith(("plan", "rec", "train"))
    }
    (tmp_path / "tiny" / "frames").mkdir()
    Image.fromarray(render(9, 0, (72, 80))[0]).save(tmp_path / "tiny" / "frames" / "0.png")
    card = tmp_path / "tiny" / "card.yaml"
    card.write_text(card.read_text() + "unlabelled: frames/*.png\n")
    extract(cache)
    after = tree(tmp_path / "store.zarr")
    shards = {name: data for name, data in before.items() if not name.endswith("zarr.json")}
    assert all(after[name] == data for name, data in shards.items())
    assert [r.labelled for r in Store(cache.store).records["train"]] == [True] * 12 + [False] * 2


# --- initial weights --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(cache, tmp_path_factory):
    return train(tiny_train(tmp_path_factory.mktemp("trained"), cache, steps=2))


def test_the_weights_and_not_their_place_identify_a_run(cache, tmp_path, trained):
    copy = shutil.copy(trained / "student.safetensors", tmp_path / "weights.safetensors")
    by_run, by_file = (tiny_train(tmp_path, cache, init=str(path)) for path in (trained, copy))
    assert by_run.identity() == by_file.identity() != tiny_train(tmp_path, cache).identity()
    again = type(by_run).model_validate(by_run.model_dump(mode="json"))
    assert again.identity() == by_run.identity()


def changed(trained, path, change):
    state = load_file(trained / "student.safetensors")
    change(state)
    save_file(state, path)
    return str(path)


@pytest.mark.parametrize("kind", ["missing", "unexpected", "renamed"])
def test_one_missing_extra_or_renamed_key_is_refused_by_name(cache, tmp_path, trained, kind):
    key = sorted(k for k in load_file(trained / "student.safetensors") if k.endswith("weight"))[0]

    def change(state):
        value = state[key] if kind == "unexpected" else state.pop(key)
        if kind != "missing":
            state["other.weight"] = value.clone()

    config = tiny_train(tmp_path, cache, init=changed(trained, tmp_path / "w.safetensors", change))
    with pytest.raises(ValueError, match="are not of this student") as refused:
        prepared(config)
    assert (f"1 missing: {key}" in str(refused.value)) == (kind != "unexpected")
    assert ("1 unexpected: other.weight" in str(refused.value)) == (kind != "missing")


def test_another_architecture_is_refused(cache, tmp_path, trained):
    with pytest.raises(ValueError, match="set `student` to that of the run"):
        prepared(tiny_train(tmp_path, cache, student={"kind": "resunetpp"}, init=str(trained)))


def test_a_classifier_of_other_classes_starts_anew_and_the_user_is_told(cache, tmp_path, trained, caplog):
    def change(state):
        for name in ("classifier.weight", "classifier.bias"):
            state[name] = torch.cat([state[name]] * 3)

    path = changed(trained, tmp_path / "six.safetensors", change)
    with caplog.at_level(logging.WARNING):
        run = prepared(tiny_train(tmp_path, cache, init=path))
    assert "the classifier starts anew" in caplog.text
    assert "6 classes, this run 2" in caplog.text
    fresh, state = prepared(tiny_train(tmp_path, cache)).student.state_dict(), run.student.state_dict()
    assert torch.equal(state["classifier.weight"], fresh["classifier.weight"])
    saved = load_file(path)
    assert all(torch.equal(state[k], saved[k]) for k in state if not k.startswith("classifier."))


def test_weights_that_were_replaced_are_refused(cache, tmp_path, trained):
    config = tiny_train(tmp_path, cache, init=changed(trained, tmp_path / "w.safetensors", lambda state: None))
    changed(trained, tmp_path / "w.safetensors", lambda state: next(iter(state.values())).add_(1))
    with pytest.raises(ValueError, match="they were replaced"):
        prepared(config)


def test_a_path_without_weights_is_refused(cache, tmp_path):
    with pytest.raises(ValidationError, match="init: there is no file"):
        tiny_train(tmp_path, cache, init=str(tmp_path / "nothing"))
    (tmp_path / "text.pt").write_text("no weights")
    with pytest.raises(ValidationError, match="init: cannot read"):
        tiny_train(tmp_path, cache, init=str(tmp_path / "text.pt"))


def test_a_resumed_run_with_few_labels_is_the_uninterrupted_one(cache, tmp_path, monkeypatch):
    config = tiny_train(tmp_path, cache, **HALF, name="whole")
    expected = load_file(train(config) / "student.safetensors")
    real, calls = loop.clip, []

    def stop_at_four(run, *rest):
        calls.append(run)
        if len(calls) == 4:
            raise RuntimeError("killed")
        return real(run, *rest)

    monkeypatch.setattr(loop, "clip", stop_at_four)
    again = config.model_copy(update={"name": "cut"})
    with pytest.raises(RuntimeError, match="killed"):
        train(again)
    monkeypatch.setattr(loop, "clip", real)
    found = load_file(train(again) / "student.safetensors")
    assert all(torch.equal(found[k], expected[k]) for k in expected)
