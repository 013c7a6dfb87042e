"""A small paired folder with a card, to be broken in the tests."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from pictures import half_mask, picture
from PIL import Image
from sets import CARD


@pytest.fixture
def make_set(tmp_path: Path) -> Callable[..., Path]:
    """``make_set(count, **card)`` writes pairs a00, a01, ... and returns the path of their card."""

    def make(count: int = 10, suffix: str = ".png", **changes: Any) -> Path:
        for name in ("images", "masks"):
            (tmp_path / name).mkdir()
        for n in range(count):
            picture(f"a{n:02d}").save(tmp_path / "images" / f"a{n:02d}{suffix}")
            Image.fromarray(half_mask()).save(tmp_path / "masks" / f"a{n:02d}.png")
        card = {**CARD, "images": f"images/{{id}}{suffix}", **changes}
        (tmp_path / "card.yaml").write_text(yaml.safe_dump(card))
        return tmp_path / "card.yaml"

    return make
