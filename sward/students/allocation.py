"""Limits the memory that building a network may ask for, so that a damaged or hostile card cannot fill it."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

FACTORIES = (torch.empty, torch.zeros, torch.ones, torch.full, torch.rand, torch.randn)


class TooLarge(ValueError):
    """A network has more parameters than allowed."""


@contextmanager
def at_most(values: int) -> Iterator[None]:
    """Raises TooLarge, before the memory is taken, when more than ``values`` numbers are allocated within."""
    with _Counting(values):
        yield


class _Counting(TorchFunctionMode):
    def __init__(self, most: int) -> None:
        super().__init__()
        self.most, self.count = most, 0

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in FACTORIES:
            self.count += math.prod(shape_of(args, kwargs or {}))
            if self.count > self.most:
                raise TooLarge(f"it asks for {self.count:,} parameters or more")
        return func(*args, **(kwargs or {}))


def shape_of(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[int, ...]:
    """The shape in the arguments of a factory: ``f(2, 3)``, ``f((2, 3), …)`` or ``f(size=(2, 3))``."""
    first = kwargs.get("size", args[0] if args else ())
    return tuple(first) if isinstance(first, tuple | list | torch.Size) else tuple(n for n in args if type(n) is int)
