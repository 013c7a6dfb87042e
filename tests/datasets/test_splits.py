"""Draws are pure, whole and near their shares; the committed lists are what the rules on the cards give."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline import paths
from pipeline.datasets import DatasetError, check, check_all, load_dataset, read_card
from pipeline.datasets.split_lists import list_path
from pipeline.datasets.split_rules import Drawn
from pipeline.datasets.splits import draw
from pipeline.maintenance.lists import write_lists

IDS = [str(n) for n in range(200)]


def test_a_draw_covers_every_id_once_in_the_stated_shares() -> None:
    pairs = draw(IDS, Drawn(), {})
    assert sorted(i for _, i in pairs) == sorted(IDS)
    assert Counter(subset for subset, _ in pairs) == {"train": 160, "val": 20, "test": 20}


def test_a_draw_depends_on_seed_and_ids_but_not_on_their_order() -> None:
    assert draw(IDS, Drawn(), {}) == draw(IDS[::-1], Drawn(), {}) != draw(IDS, Drawn(seed=1), {})


def test_one_more_image_moves_others_only_across_a_cut() -> None:
    before, after = ({i: s for s, i in draw(ids, Drawn(), {})} for ids in (IDS, [*IDS, "new"]))
    assert sum(before[i] != after[i] for i in IDS) <= 2


def test_a_limit_draws_that_many() -> None:
    assert Counter(s for s, _ in draw(IDS, Drawn(limit=100), {})) == {"train": 80, "val": 10, "test": 10}


@pytest.mark.parametrize("seed", range(20))
def test_sequences_stay_whole_and_near_their_shares(seed: int) -> None:
    sequences = {i: str(int(i) ** 2 // 1500) for i in IDS}
    pairs = draw(IDS, Drawn(by="sequence", seed=seed), sequences)
    homes = {name: {s for s, i in pairs if sequences[i] == name} for name in set(sequences.values())}
    assert sorted(i for _, i in pairs) == sorted(IDS)
    assert all(len(home) == 1 for home in homes.values())
    counts = Counter(subset for subset, _ in pairs)
    assert 10 <= counts["val"] <= 30
    assert 10 <= counts["test"] <= 30


@pytest.mark.parametrize(
    ("content", "sentence"),
    [({"fractions": (0.5, 0.2, 0.2)}, "three shares that sum to 1"), ({"limit": 9, "by": "sequence"}, "by image")],
)
def test_impossible_draws_are_refused(content: dict, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        Drawn(**content)


def test_a_sequence_in_two_subsets_is_a_leak_and_a_frame_without_one_is_told(make_set: Callable[..., Path]) -> None:
    card = make_set(6, sequences="sequences.csv", splits={"sequence": {"kind": "listed"}})
    (card.parent / "sequences.csv").write_text("frame,sequence\na00,1\na01,1\na02,2\na03,2\na04,3\n")
    (card.parent / "splits").mkdir()
    for subset, ids in {"train": "a00 a02 a05", "val": "a01", "test": "a04 a04 gone"}.items():
        path = list_path(card.parent, "sequence", subset)
        path.write_text("\n".join(ids.split()))
    text = "\n".join(map(str, check(card, "sequence")))
    assert "sequence 1: train: a00; val: a01" in text
    assert "a05: has no sequence" in text
    assert "a04: 2 times in test" in text
    assert "gone: no file images/gone.png (test)" in text
    assert "sequence 2" not in text


def test_missing_lists_and_empty_subsets_are_told(make_set: Callable[..., Path]) -> None:
    splits = {"random": {"kind": "listed"}, "few": {"kind": "matched", "patterns": {"train": "a*", "val": "b*"}}}
    card = make_set(splits=splits)
    with pytest.raises(DatasetError, match=r"random\.val\.txt: does not exist"):
        load_dataset(card, "random")
    with pytest.raises(DatasetError, match="val: no ids in split few"):
        load_dataset(card, "few")


def test_lists_written_from_a_rule_are_the_draw(make_set: Callable[..., Path]) -> None:
    splits = {"drawn": {"kind": "drawn"}, "random": {"kind": "listed", "drawn": {"kind": "drawn"}}}
    card = make_set(20, splits=splits)
    write_lists(card)
    assert load_dataset(card, "random").split_digest == load_dataset(card, "drawn").split_digest


def test_images_with_equal_bytes_are_drawn_once_where_the_card_says_so(make_set: Callable[..., Path]) -> None:
    card = make_set(12, splits={"random": {"kind": "drawn", "duplicates": "first"}})
    content = (card.parent / "images/a03.png").read_bytes()
    (card.parent / "images/a07.png").write_bytes(content)
    assert {sample.id for sample in load_dataset(card, "random").samples} == {f"a{n:02d}" for n in range(12)} - {"a07"}


COMMITTED = {
    ("cvc-clinicdb", "random"): (490, 61, 61),
    ("cvc-clinicdb", "sequence"): (480, 63, 69),
    ("cvc-colondb", "random"): (240, 30, 30),
    ("cvc-colondb", "sequence"): (270, 40, 36),
}


@pytest.mark.parametrize(("name", "split"), COMMITTED)
def test_committed_lists_have_their_sizes_and_are_disjoint(name: str, split: str) -> None:
    lists = [
        (paths.CATALOGUE / name / "splits" / f"{split}.{subset}.txt").read_text().splitlines()
        for subset in ("train", "val", "test")
    ]
    assert tuple(map(len, lists)) == COMMITTED[name, split]
    assert len({i for ids in lists for i in ids}) == sum(COMMITTED[name, split])


@pytest.mark.parametrize("name", sorted(path.parent.name for path in paths.CATALOGUE.glob("*/card.yaml")))
def test_every_committed_card_checks_and_carries_its_folders_name(name: str) -> None:
    assert read_card(name).name == name


@pytest.mark.real
@pytest.mark.parametrize("name", ["cvc-clinicdb", "cvc-colondb"])
def test_the_real_sets_pass_every_check_and_no_sequence_is_divided(
    name: str, shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SWARD_DATA", str(shared / "datasets"))
    dataset = check_all(name, "sequence")
    homes = {(sample.sequence, sample.subset) for sample in dataset.samples}
    assert len(homes) == len({sequence for sequence, _ in homes})
    files = {sample.image_path for sample in dataset.samples}
    assert {sample.image_path for sample in load_dataset(name, "random").samples} <= files  # decoded above


@pytest.mark.real
@pytest.mark.parametrize("name", ["cvc-clinicdb", "cvc-colondb"])
def test_the_committed_lists_are_what_the_cards_rules_give(
    name: str, shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in (shared / "datasets" / name).iterdir():
        (tmp_path / folder.name).symlink_to(folder)
    (tmp_path / "card.yaml").write_text((paths.CATALOGUE / name / "card.yaml").read_text())
    for path in write_lists(tmp_path / "card.yaml"):
        assert path.read_text() == (paths.CATALOGUE / name / "splits" / path.name).read_text()
