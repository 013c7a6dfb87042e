"""Reads people's text files: UTF-8 with or without a byte order mark, or UTF-16 with one."""

from pathlib import Path

from pipeline.plain_text import EncodingError, decoded

OFFICE = "save the table as CSV, or the text as plain text"
NO_TEXT = (  # first bytes, what they mean for people
    (b"PK\x03\x04", f"an Excel or Word file (or another zip archive); {OFFICE}"),
    (b"\xd0\xcf\x11\xe0", f"an old Excel or Word file; {OFFICE}"),
    (b"{\\rtf", "rich text (RTF); save it as plain text (TextEdit: Format, Make Plain Text)"),
    (b"%PDF", "a PDF; save its text as plain text"),
    (b"\x1f\x8b", "packed by gzip; unpack it: gunzip FILE"),
)


class TextError(ValueError):
    """A text file in an encoding that cannot be known, or no text at all."""


def read_text(path: Path) -> str:
    """The text of a file, without its byte order mark.

    Raises:
        TextError: the file is not UTF-8, or no text; the message names the file and the byte.
        OSError: the file cannot be read.
    """
    try:
        return decode_text(path.read_bytes())
    except TextError as error:
        raise TextError(f"{path}: {error}") from error


def decode_text(content: bytes) -> str:
    """The text that a file holds, without its byte order mark.

    Raises:
        TextError: it is not UTF-8, or no text; the message says what it is, or names the byte.
    """
    if what := next((meaning for start, meaning in NO_TEXT if content.startswith(start)), ""):
        raise TextError(f"is no plain text but {what}")
    try:
        text = decoded(content)
    except EncodingError as error:
        raise TextError(f"{error}; save the file as UTF-8 (editors call it that in 'Save as')") from error
    if "\0" in text:
        line = text[: text.index("\0")].count("\n") + 1
        raise TextError(f"a zero byte in line {line}: UTF-16 without its mark, or no text; save the file as UTF-8")
    return text
