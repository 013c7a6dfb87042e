"""Lists of ids as people and programs write them: names, paths, marks, blanks, encodings; what cannot be is told."""

import unicodedata
from pathlib import Path
from typing import Any

import pytest
from sets import IDS, images, masks, write, write_set

from pipeline.datasets import DatasetError, check_all

LISTED = {"official": {"kind": "listed"}}
NESTED = ("cam/1/a", "cam/2/a", "cam/2/b")
WORDS = ("img 1", "img 2", "img")
ACCENTS = tuple(f"{i}-ü" for i in IDS)
BOM, UTF16 = b"\xef\xbb\xbf", "utf-16"


def nfd(text: str) -> str:
    return unicodedata.normalize("NFD", text)


# name -> (ids of the set, text or bytes of the train list, of the val list)
LISTS: dict[str, tuple[tuple[str, ...], Any, Any]] = {
    "ids": (IDS, "train-a\ntrain-b\n", "val-a\n"),
    "no line end at the end": (IDS, "train-a\ntrain-b", "val-a"),
    "Windows": (IDS, b"train-a\r\ntrain-b\r\n\r\n", b"val-a\r\n"),
    "a byte order mark": (IDS, BOM + b"train-a\ntrain-b\n", BOM + b"val-a\n"),
    "UTF-16": (IDS, "train-a\r\ntrain-b\r\n".encode(UTF16), "val-a\r\n".encode(UTF16)),
    "blanks": (IDS, "  train-a \ntrain-b\t\n \n", "val-a   \n"),
    "file names": (IDS, "train-a.png\ntrain-b.png\n", "val-a.png\n"),
    "paths": (IDS, "images/train-a.png\n./images/train-b.png\n", "/home/me/set/images/val-a.png\n"),
    "paths of the masks": (IDS, "masks/train-a.png\nmasks/train-b.png\n", "masks/val-a.png\n"),
    "Windows paths": (IDS, "images\\train-a.png\nC:\\set\\images\\train-b.png\n", "images\\val-a.png\n"),
    "CamVid's pairs": (
        IDS,
        "/SegNet/images/train-a.png /SegNet/masks/train-a.png\nimages/train-b.png\tmasks/train-b.png\n",
        "images/val-a.png,masks/val-a.png\n",
    ),
    "bare names of files in folders": (NESTED, "cam/1/a\n2/a.png\n", "b\n"),
    "names in quotes": (IDS, '"train-a"\n"images/train-b.png"\n', "'val-a.png'\n"),
    "names with blanks": (WORDS, "img 1\nimg 2.png\n", "img\n"),
    "lists joined with their marks": (IDS, BOM + b"train-a\n" + BOM + b"train-b.png\n", b"val-a\n" + BOM),
    "invisible marks of a web page": (IDS, "train-a\u200b\n\u200e images/train-b.png \u200f\n", "\u2060val-a\n"),
    "decomposed letters": (ACCENTS, nfd("train-a-ü\ntrain-b-ü.png\n"), nfd("val-a-ü\n")),
}


def listed_set(folder: Path, ids: tuple[str, ...], train: Any, val: Any, **card: Any) -> Path:
    write(folder / "splits/official.train.txt", train)
    write(folder / "splits/official.val.txt", val)
    return write_set(folder, images(ids=ids) | masks(ids=ids), **{"splits": LISTED, **card})


@pytest.mark.parametrize("name", LISTS)
def test_a_list_means_the_same_ids_however_it_is_written(tmp_path: Path, name: str) -> None:
    ids, train, val = LISTS[name]
    samples = check_all(listed_set(tmp_path, ids, train, val), "official").samples
    assert [(s.subset, s.id) for s in samples] == [("train", ids[0]), ("train", ids[1]), ("val", ids[2])]


REFUSED: dict[str, tuple[tuple[str, ...], Any, Any, str]] = {
    "Latin-1": (
        IDS,
        "train-a\nü\n".encode("latin-1"),
        "val-a",
        r"official\.train\.txt: byte 0xfc in line 2 is not UTF-8",
    ),
    "an unknown id": (IDS, "train-a\ntrain-z\n", "val-a\n", r"train-z: no file images/train-z\.png \(train\)"),
    "a name that fits two": (
        NESTED,
        "cam/1/a\na\n",
        "b\n",
        r"line 2: 'a' fits 2 ids: cam/1/a, cam/2/a; write the whole id",
    ),
    "a path of another folder": (("x/a", "x/b", "y/c"), "x/a\ny/b\n", "y/c\n", r"y/b: no file images/y/b\.png"),
    "the first word of a name": (WORDS, "img 1\nimg 3\n", "img\n", r"img 3: no file images/img 3\.png"),
    "an id of two lists": (IDS, "train-a\nval-a.png\n", "val-a\n", "two subsets"),
    "an id twice in one list": (IDS, "train-a\ntrain-b\nimages/train-b.png\n", "val-a\n", "train-b: 2 times in train"),
    "a spreadsheet": (
        IDS,
        b"PK\x03\x04\x14\0\x06\xff",
        "val-a\n",
        "is no plain text but an Excel or Word file.*as CSV",
    ),
    "an old spreadsheet": (IDS, b"\xd0\xcf\x11\xe0\xa1", "val-a\n", "is no plain text but an old Excel or Word file"),
    "TextEdit's own form": (IDS, b"{\\rtf1\\ansi train-a\\par}", "val-a\n", "is no plain text but rich text"),
    "UTF-16 without its mark": (
        IDS,
        "train-a\n".encode("utf-16-le"),
        "val-a\n",
        "a zero byte in line 1: UTF-16 without",
    ),
    "an empty list": (IDS, "train-a\ntrain-b\n", "\n", "val: no ids in split official"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_list_that_does_not_fit_is_told_with_its_line(tmp_path: Path, name: str) -> None:
    ids, train, val, sentence = REFUSED[name]
    with pytest.raises(DatasetError, match=sentence):
        check_all(listed_set(tmp_path, ids, train, val), "official")


def test_lists_lie_where_the_card_says(tmp_path: Path) -> None:
    for subset, ids in (("trainval", "train-a\ntrain-b"), ("test", "val-a")):
        write(tmp_path / f"ImageSets/{subset}.txt", ids)
    files = {"train": "ImageSets/trainval.txt", "val": "ImageSets/test.txt"}
    splits = {"official": {"kind": "listed", "files": files}}
    card = write_set(tmp_path, images() | masks(), splits=splits)
    assert [(s.subset, s.id) for s in check_all(card, "official").samples] == [
        ("train", "train-a"),
        ("train", "train-b"),
        ("val", "val-a"),
    ]
    (tmp_path / "ImageSets/test.txt").unlink()
    with pytest.raises(DatasetError, match=r"ImageSets/test\.txt: does not exist"):
        check_all(card, "official")


def test_a_sequence_table_may_decompose_letters_and_has_to_be_text(tmp_path: Path) -> None:
    table = "frame,sequence\n" + "".join(f"{nfd(i)},{n}\n" for n, i in enumerate(ACCENTS))
    write(tmp_path / "sequences.csv", table)
    card = listed_set(tmp_path, ACCENTS, "\n".join(ACCENTS[:2]), ACCENTS[2], sequences="sequences.csv")
    assert [s.sequence for s in check_all(card, "official").samples] == ["0", "1", "2"]
    (tmp_path / "sequences.csv").write_bytes(table.encode("utf-8").replace(b"frame", b"frame\xff"))
    with pytest.raises(DatasetError, match=r"sequences\.csv: byte 0xff in line 1 is not UTF-8"):
        check_all(card, "official")


ROWS = list(zip(IDS, ("s 1", "s 1", "s2"), strict=True))
# name -> the table, whatever program wrote it
TABLES: dict[str, Any] = {
    "commas": "frame,sequence\n" + "".join(f"{i},{s}\n" for i, s in ROWS),
    "semicolons": "frame;sequence\r\n" + "".join(f"{i};{s}\r\n" for i, s in ROWS),
    "tabs": "frame\tsequence\n" + "".join(f"{i}\t{s}\n" for i, s in ROWS),
    "blanks around": "frame , sequence\n" + "".join(f"{i} ,  {s} \n" for i, s in ROWS),
    "a byte order mark and Windows": BOM + ("frame,sequence\r\n" + "".join(f"{i},{s}\r\n" for i, s in ROWS)).encode(),
    "UTF-16": ("frame\tsequence\r\n" + "".join(f"{i}\t{s}\r\n" for i, s in ROWS)).encode(UTF16),
    "quotes": '"frame","sequence"\n' + "".join(f'"{i}","{s}"\n' for i, s in ROWS),
    "more columns": "n,sequence,frame\n" + "".join(f"1,{s},{i}\n" for i, s in ROWS),
    "empty lines": "frame,sequence\n\n" + "\n".join(f"{i},{s}\n" for i, s in ROWS),
    "file names": "frame,sequence\n" + "".join(f"{i}.png,{s}\n" for i, s in ROWS),
    "paths": "frame,sequence\n" + "".join(f"images\\{i}.png,{s}\n" for i, s in ROWS),
    "columns with capitals": "Frame,SEQUENCE\n" + "".join(f"{i},{s}\n" for i, s in ROWS),
    "a frame twice, alike": f"frame,sequence\n{IDS[0]}.png,s 1\n" + "".join(f"{i},{s}\n" for i, s in ROWS),
    "a frame of another folder": "frame,sequence\ncam2/train-a.png,9\n" + "".join(f"{i},{s}\n" for i, s in ROWS),
    "frames of another set": "frame,sequence\nother,9\n" + "".join(f"{i},{s}\n" for i, s in ROWS),
}


@pytest.mark.parametrize("name", TABLES)
def test_a_sequence_table_means_the_same_however_it_is_written(tmp_path: Path, name: str) -> None:
    write(tmp_path / "sequences.csv", TABLES[name])
    card = write_set(tmp_path, images() | masks(), sequences="sequences.csv")
    assert {s.id: s.sequence for s in check_all(card, "official").samples} == dict(ROWS)


BROKEN = {
    "one frame by two names, in two sequences": (
        "frame,sequence\ntrain-a.png,s 9\n" + "".join(f"{i},{s}\n" for i, s in ROWS),
        "train-a.png is of sequence s 9, another line says s 1; keep one",
    ),
    "a frame of two folders": (
        "frame,sequence\nx/train-a,s 1\ny/train-a,s 9\ntrain-b,s 1\nval-a,s2\n",
        "y/train-a is of sequence s 9, another line says s 1",
    ),
    "a spreadsheet": (b"PK\x03\x04\x14\0\x06\0", "is no plain text but an Excel or Word file.*save the table as CSV"),
    "no such columns": ("image,video\ntrain-a,1\n", r"has columns \['image', 'video'\]; expected frame and sequence"),
    "an empty file": ("", r"has columns \[\]; expected frame and sequence"),
    "a row of one column": ("frame,sequence\ntrain-a\ntrain-b,1\nval-a,2\n", "line 2: 'train-a' has no frame or no"),
    "an empty sequence": ("frame,sequence\ntrain-a,\ntrain-b,1\nval-a,2\n", "line 2: 'train-a,' has no frame or no"),
    "two sequences": ("frame,sequence\ntrain-a,1\ntrain-a,2\n", "frame train-a is in two sequences"),
    "a frame that is missing": ("frame,sequence\ntrain-a,1\nval-a,2\n", "train-b: has no sequence"),
    "a field without end": ('frame,sequence\n"' + "x" * 200_000 + '",1\n', "is no table: field larger"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_sequence_table_that_does_not_fit_is_told(tmp_path: Path, name: str) -> None:
    text, sentence = BROKEN[name]
    write(tmp_path / "sequences.csv", text)
    with pytest.raises(DatasetError, match=sentence):
        check_all(write_set(tmp_path, images() | masks(), sequences="sequences.csv"), "official")
