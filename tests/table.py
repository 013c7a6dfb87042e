"""The table of methods, and a configuration of each kind: its defaults, or an example where it has none."""

from typing import Any, get_args

from pydantic import TypeAdapter

from sward.contracts import BaseMethodConfig
from sward.methods import MethodConfig

CONFIGS: dict[str, type[BaseMethodConfig]] = {
    c.model_fields["kind"].default: c for c in get_args(get_args(MethodConfig)[0])
}
EXAMPLES: dict[str, dict[str, Any]] = {
    "radio": {"level": "s8"},  # whose channels have a Hadamard matrix in every test
    "combined": {"parts": {"cankd": {"kind": "cankd"}, "pdr": {"kind": "sward", "beta": 0}, "kd": {"kind": "kd"}}},
}


def example(kind: str) -> Any:
    """A configuration of that kind, ready to build."""
    return TypeAdapter(MethodConfig).validate_python({"kind": kind} | EXAMPLES.get(kind, {}))
