"""Reads YAML as its authors mean it, and writes texts so that they are read back as texts.

YAML 1.1 has traps for people: a key given twice silently loses the first, ``yes`` and ``no`` are truth values, ``0100``
is 64, ``1:30`` is 90, and ``1e3`` is a text. Here a repeated key is an error with both lines, ``yes`` and ``no`` are
texts (a setting that is a truth value still takes them), ``0100`` and ``1:30`` are refused, and ``1e3`` is 1000.
"""

import copy
import re
from typing import Any

import yaml

TAG = "tag:yaml.org,2002:"
EXPONENT = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+\Z")
AMBIGUOUS = re.compile(r"[-+]?(0[0-9_]+|[0-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?)\Z")  # octal or not; base 60 or not
TRUTH = re.compile(r"(?:true|True|TRUE|false|False|FALSE)\Z")
MISREAD = f"{TAG}sward-ambiguous"  # tag of a number that YAML versions read differently


def read_yaml_text(text: str) -> Any:
    """The value of a YAML document.

    Raises:
        yaml.YAMLError: it is none, has a key twice, or a number that YAML versions read differently.
    """
    try:
        return yaml.load(text, Loader=Loader)
    except RecursionError as error:
        raise yaml.YAMLError("it is nested too deeply; expected a few levels") from error


def dump_yaml(value: Any, **options: Any) -> str:
    """YAML of plain values, in the order of their keys; ``read_yaml_text`` gives the same values back."""
    return yaml.dump(value, Dumper=Dumper, sort_keys=False, **options)


class Loader(yaml.SafeLoader):
    """SafeLoader that refuses what would be misread."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        """A mapping whose keys are all different."""
        if isinstance(node, yaml.MappingNode):
            lines: dict[Any, int] = {}
            for key_node, _ in node.value:  # before keys of `<<` are merged in, which may be overridden
                if isinstance(key_node, yaml.ScalarNode) and key_node.tag != f"{TAG}merge":
                    key, line = self.construct_object(key_node), key_node.start_mark.line + 1
                    if key in lines:
                        raise yaml.YAMLError(f"{key!r} is given twice, in lines {lines[key]} and {line}; keep one")
                    lines[key] = line
        return super().construct_mapping(node, deep)

    def refuse(self, node: Any) -> Any:
        """Raises for a number that YAML versions read differently."""
        line, text = node.start_mark.line + 1, node.value
        raise yaml.YAMLError(
            f"line {line}: {text} is read as another number by some versions of YAML; write it in decimal digits "
            f"without leading zeros or colons, or '{text}' in quotes for a text"
        )


class Dumper(yaml.SafeDumper):
    """SafeDumper that puts every text in quotes that ``Loader`` would not read as one."""


def change_rules(kind: Any) -> None:
    """Gives a loader or dumper the rules of this module for plain scalars."""
    rules = {first: list(known) for first, known in copy.copy(kind.yaml_implicit_resolvers).items()}
    kind.yaml_implicit_resolvers = rules
    for first in "-+.0123456789":
        before = [(f"{TAG}float", EXPONENT)] + ([(MISREAD, AMBIGUOUS)] if first != "." else [])
        rules[first] = before + rules.get(first, [])


change_rules(Loader)
change_rules(Dumper)
Loader.yaml_implicit_resolvers = {
    first: [(tag, TRUTH if tag == f"{TAG}bool" else rule) for tag, rule in known]
    for first, known in Loader.yaml_implicit_resolvers.items()
}
Loader.add_constructor(MISREAD, Loader.refuse)
