"""Says in one line why a file is no checkpoint, from its first bytes and the reader's error.

People meet these files: a web page saved under the name of the weights, a Git LFS pointer, a safetensors file renamed
``.pt``, a half-finished download. What is wrong inside a checkpoint is said by `sward.teachers.trunk_names`.
"""

import pickle  # only for the class of its error
from pathlib import Path

ZIP, PICKLE = b"PK\x03\x04", b"\x80"  # first bytes of what torch.save writes, now and before version 1.6
ONLY_TENSORS = (
    "expected safetensors, or a .pt that holds tensors only "
    "(it is opened with weights_only=True, so it cannot run code)"
)
DOWNLOAD = "download the file again and look at its first bytes"


def wrong_start(path: Path) -> str | None:
    """What the first bytes say that the file is, if it is no checkpoint; None if they may be one."""
    head = read_start(path)
    text = head.lstrip().lower()
    if not head:
        return f"the file is empty; {DOWNLOAD}"
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        return f"it is a web page, not weights (the link leads to a page, or needs a login); {DOWNLOAD}"
    if head.startswith(b"version https://git-lfs"):
        return "it is a Git LFS pointer, not the file it stands for; run `git lfs pull` in that repository"
    if text.startswith((b'{"error', b'{"message')):
        return f"it is the error message of a server, not weights; {DOWNLOAD}"
    if head.startswith((b"\x1f\x8b", b"7z\xbc\xaf", b"Rar!", b"BZh", b"\xfd7zXZ")):
        return "it is a compressed archive; unpack it and set teacher.weights to the file inside"
    return None


def read_start(path: Path) -> bytes:
    """The first 512 bytes of a file."""
    with path.open("rb") as file:
        return file.read(512)


def is_safetensors(path: Path) -> bool:
    """Whether the file starts as safetensors does (length of the header, then JSON), or is at least named so."""
    head = read_start(path)
    if path.suffix == ".safetensors" and not head.startswith((ZIP, PICKLE)):
        return True
    return len(head) > 9 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") + 8 <= path.stat().st_size


def unreadable(path: Path, error: Exception) -> str:
    """Why a reader failed, in one line. torch's own text would explain how to run the code in the file anyway."""
    said = str(error)
    if isinstance(error, pickle.UnpicklingError) and "numpy" in said:
        return (
            "it holds numbers of numpy beside the tensors (a metric, a step), which are not opened; save "
            "model.state_dict() alone, or convert them with float()"
        )
    if isinstance(error, pickle.UnpicklingError) and not read_start(path).startswith((ZIP, PICKLE)):
        return f"it is in no known format of a checkpoint; {ONLY_TENSORS}"
    if isinstance(error, pickle.UnpicklingError):
        return f"it holds more than tensors; {ONLY_TENSORS}"
    return f"{' '.join(said.split())[:300] or type(error).__name__}; {ONLY_TENSORS}"
