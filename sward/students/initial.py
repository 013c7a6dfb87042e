"""Loading of given weights into a new student: strict, except for the classifier of other classes."""

from collections.abc import Mapping

from torch import Tensor, nn

from sward.contracts import Student

CLASSIFIER = "classifier."  # names of the last convolution's weight and bias in every student
COUNTER = "num_batches_tracked"  # of batch normalisation; files of other programs may lack it
NAMED = 3  # keys that a message lists


def load_initial(student: Student, given: Mapping[str, Tensor], origin: str) -> list[str]:
    """Loads weights into a student, in place; a classifier of another number of classes keeps its own.

    Args:
        student: just built.
        given: name -> tensor, of a student of the same architecture; floats of any precision.
        origin: where they come from, for messages.

    Returns:
        What was not loaded, as sentences for the user; empty if all was.

    Raises:
        ValueError: other tensors are missing, unexpected or of another shape; lists them.
    """
    own = student.state_dict()
    left = [name for name in own if name.startswith(CLASSIFIER) and _other_classes(own[name], given.get(name))]
    used = {name: tensor for name, tensor in given.items() if name not in left}
    if problems := mismatches({k: v for k, v in own.items() if k not in left}, used):
        raise ValueError(
            f"init: the weights of {origin} are not of this student:\n  " + "\n  ".join(problems) + "\n  set `student` "
            "to that of the run that trained them, or choose other weights"
        )
    nn.Module.load_state_dict(student, own | {k: v.to(own[k].dtype) for k, v in used.items()})
    if not left:
        return []
    classes = len(given[left[0]])
    return [
        f"the classifier starts anew: {origin} has {classes} classes, this run {student.num_classes} "
        f"(not loaded: {', '.join(left)})"
    ]


def _other_classes(own: Tensor, given: Tensor | None) -> bool:
    """Whether two tensors of a classifier differ in the number of classes alone."""
    return given is not None and len(own) != len(given) and own.shape[1:] == given.shape[1:]


def mismatches(own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> list[str]:
    """Describes why ``given`` are not the tensors of ``own``; one line per kind, none if they are."""
    problems = {
        "missing": sorted(k for k in own if k not in given and not k.endswith(COUNTER)),
        "unexpected": sorted(k for k in given if k not in own),
        "of another shape": [
            f"{k} {tuple(given[k].shape)} instead of {tuple(v.shape)}"
            for k, v in own.items()
            if k in given and given[k].shape != v.shape
        ],
    }
    return [
        f"{len(v)} {kind}: {', '.join(v[:NAMED])}{' …' if len(v) > NAMED else ''}" for kind, v in problems.items() if v
    ]
