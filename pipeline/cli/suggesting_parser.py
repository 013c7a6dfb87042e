"""An argument parser that names the nearest word to one that it refuses."""

import argparse
import re
from typing import NoReturn

from pipeline.plain_text import did_you_mean


class SuggestingParser(argparse.ArgumentParser):
    """A parser whose refusal of a word names the nearest one that exists."""

    def error(self, message: str) -> NoReturn:
        """Prints usage and message, and exits with 2."""
        if found := re.search(r"invalid choice: '(.*?)' \(choose from (.*)\)", message):
            meant = did_you_mean(found[1], [c.strip(" '") for c in found[2].split(",")])
            message += f"; {meant}" if meant else ""
        super().error(message)
