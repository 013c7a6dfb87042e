"""Attributes the backward time of each autograd node to the loss term it serves.

Autograd numbers nodes in the order of their creation, so the nodes of the objective have larger numbers than those of
the student. The nodes of a term are found by walking the graph from the term. A node that several terms share is listed
under all of them together (`attn + value`). The hooks only read the clock: gradients stay the same, bit for bit.
"""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from pipeline.training.profiling.parts import Recorder

Node = Any  # torch.autograd.graph.Node
ACCUMULATE = 2**63  # autograd numbers leaves from here on, so that they run first


def last_number(output: Any) -> int:
    """Largest number of the student's nodes; nodes with larger numbers belong to the objective."""
    tensors = (output.logits, output.penultimate, *output.features.values())
    return max((t.grad_fn._sequence_nr() for t in tensors if t.grad_fn is not None), default=-1)


def owners(terms: dict[str, Tensor], last: int) -> dict[Node, str]:
    """Maps each node of the objective to the term or terms it serves, e.g. `attn + value`."""
    terms_of: dict[Node, list[str]] = {}
    for name, term in terms.items():
        for node in reachable(term.grad_fn, last):
            terms_of.setdefault(node, []).append(name)
    return {node: " + ".join(names) for node, names in terms_of.items()}


def reachable(root: Node | None, last: int) -> set[Node]:
    """Nodes of the objective that the backward pass from ``root`` runs through, without those of the student."""
    seen: set[Node] = set()
    waiting = [root]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen and last < node._sequence_nr() < ACCUMULATE:
            seen.add(node)
            waiting.extend(child for child, _ in node.next_functions)
    return seen


def watch(recorder: Recorder, terms: dict[str, Tensor], last: int) -> None:
    """Adds hooks by which the nodes of this graph report their time to ``recorder``, within the part `backward`."""
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
