"""Reads people's text files: UTF-8 with or without a byte order mark, or UTF-16 with one."""

import codecs
from pathlib import Path


class TextError(ValueError):
    """A text file in an encoding that cannot be known."""


def read_text(path: Path) -> str:
    """The text of a file, without its byte order mark.

    Raises:
        TextError: the file is not UTF-8; the message names the file and the byte.
        OSError: the file cannot be read.
    """
    content = path.read_bytes()
    utf16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        return content.decode("utf-16" if utf16 else "utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        found = f"byte 0x{content[error.start]:02x} in line {line} is not UTF-8"
        raise TextError(f"{path}: {found}; save the file as UTF-8 (editors call it that in 'Save as')") from error
