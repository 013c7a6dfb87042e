"""Whose backward pass is it? The time of every node of a step's graph, given to the term that needs it.

Autograd numbers the nodes as they are made, so those of the objective come after those of the student; and the nodes
a term leads to are found by walking. A node that several terms share is theirs together (`attn + value`). Hooks only
look at the clock: the gradients are what they were, bit for bit.
"""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from pipeline.training.profiling.parts import Recorder

Node = Any  # torch.autograd.graph.Node
ACCUMULATE = 2**63  # leaves are numbered above it, so that they come first


def last_number(output: Any) -> int:
    """The largest number among the student's nodes: later nodes are the objective's."""
    tensors = (output.logits, output.penultimate, *output.features.values())
    return max((t.grad_fn._sequence_nr() for t in tensors if t.grad_fn is not None), default=-1)


def owners(terms: dict[str, Tensor], last: int) -> dict[Node, str]:
    """Node of the objective -> the term it serves, or the terms: `attn + value`."""
    found: dict[Node, list[str]] = {}
    for name, term in terms.items():
        for node in reachable(term.grad_fn, last):
            found.setdefault(node, []).append(name)
    return {node: " + ".join(names) for node, names in found.items()}


def reachable(root: Node | None, last: int) -> set[Node]:
    """Nodes from ``root`` down to where the student's begin."""
    seen: set[Node] = set()
    waiting = [root]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen and last < node._sequence_nr() < ACCUMULATE:
            seen.add(node)
            waiting.extend(child for child, _ in node.next_functions)
    return seen


def watch(recorder: Recorder, terms: dict[str, Tensor], last: int) -> None:
    """From now on this graph's nodes report to ``recorder``, within the part `backward`."""
    for node, name in owners(terms, last).items():
        node.register_prehook(_begin(recorder, f"backward: {name}"))
        node.register_hook(_end(recorder, f"backward: {name}"))


def _begin(recorder: Recorder, name: str) -> Callable[[Any], None]:
    def hook(gradients: Any) -> None:
        if recorder.inside == "backward":
            recorder.enter(name)

    return hook


def _end(recorder: Recorder, name: str) -> Callable[[Any, Any], None]:
    def hook(inputs: Any, outputs: Any) -> None:
        if recorder.inside == name:
            recorder.leave()

    return hook
