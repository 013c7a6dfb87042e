"""Names made safe to show in terminals, spreadsheets and tables; the decoding of text; the nearest known word.

Names of files, classes, samples and rows come from other people. They may hold terminal escapes (which move the cursor,
retitle the window or hide text), line breaks, or text that a spreadsheet takes for a formula.
"""

import codecs
import difflib
import re
import unicodedata
from collections.abc import Iterable

TURNING = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")  # change the order of what follows
NUMBERS = re.compile(r"[-+−]?[\d.,]+([\s…±%×]+[-+−]?[\d.,]+)*[\s%×]*")  # a number, or an interval of two


class EncodingError(ValueError):
    """Bytes that are no text in UTF-8, nor in UTF-16 with its mark; the message names the byte and its line."""


def decoded(content: bytes) -> str:
    """The text of UTF-8 with or without a byte order mark, or of UTF-16 with one, as ``>`` of Windows' shell writes it.

    Raises:
        EncodingError: it is neither.
    """
    utf16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        return content.decode("utf-16" if utf16 else "utf-8-sig")
    except UnicodeDecodeError as error:
        line, byte = error.object[: error.start].count(b"\n") + 1, error.object[error.start]  # `object` has no mark
        raise EncodingError(f"byte 0x{byte:02x} in line {line} is not UTF-8") from error


def printable(text: object) -> str:
    """The text with control characters spelled out (``\\x1b``); line breaks and tabs stay."""
    return "".join(letter if letter in "\n\t" or is_plain(letter) else spelled(letter) for letter in str(text))


def one_line(text: str) -> str:
    """``printable``, and line breaks and tabs as blanks: a cell of a table."""
    return printable(re.sub(r"\s*[\r\n\t\v\f\x85\u2028\u2029]\s*", " ", text))


def no_formula(text: str) -> str:
    """``one_line``, with an apostrophe before what a spreadsheet would compute; numbers stay numbers."""
    text = one_line(text)
    return f"'{text}" if text.lstrip()[:1] in ("=", "+", "-", "@") and not NUMBERS.fullmatch(text) else text


def did_you_mean(word: str, known: Iterable[str], most: int = 2) -> str:
    """``did you mean a or b?``, of the known words that are nearest to an unknown one; empty if none is near."""
    close = difflib.get_close_matches(word, list(known), n=most)
    return f"did you mean {' or '.join(close)}?" if close else ""


def is_plain(letter: str) -> bool:
    """Whether a terminal shows the letter and does nothing else."""
    return unicodedata.category(letter) not in ("Cc", "Cs", "Zl", "Zp") and letter not in TURNING


def spelled(letter: str) -> str:
    """The escape of a letter in Python."""
    return letter.encode("ascii", "backslashreplace").decode() if ord(letter) > 127 else f"\\x{ord(letter):02x}"
