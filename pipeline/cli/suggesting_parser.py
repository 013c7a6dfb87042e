"""An argument parser that names the nearest word to one that it refuses."""

import argparse
import difflib
import re
from typing import NoReturn


class SuggestingParser(argparse.ArgumentParser):
    """A parser whose refusal of a word names the nearest one that exists."""

    def error(self, message: str) -> NoReturn:
        """Prints usage and message, and exits with 2."""
        if found := re.search(r"invalid choice: '(.*?)' \(choose from (.*)\)", message):
            close = difflib.get_close_matches(found[1], [c.strip(" '") for c in found[2].split(",")], n=2)
            message += f"; did you mean {' or '.join(close)}?" if close else ""
        super().error(message)
