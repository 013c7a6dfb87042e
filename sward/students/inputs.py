"""What a student is given: checks of its images, its output for a batch, the errors of too small a batch."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from sward.contracts import Batch, Student, StudentOutput
from sward.distributed.collectives import current_slice, use_slice


def require_multiple(images: Tensor, multiple: int, student: str) -> None:
    """Raises an error unless H and W are multiples of ``multiple``, so that halving leaves no remainder.

    Args:
        images: (B, 3, H, W).
        multiple: number of pixels that must divide H and W.
        student: name of the student, for the message.

    Raises:
        ValueError: another shape or size; names the size found and the size to pad to.
    """
    if images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(
            f"{student}: got images of shape {tuple(images.shape)}, expected (B, 3, H, W): "
            "add the batch axis, or convert to three channels."
        )
    height, width = images.shape[-2:]
    if height % multiple or width % multiple:
        padded = (-(-height // multiple) * multiple, -(-width // multiple) * multiple)
        raise ValueError(
            f"{student}: got images of {height}x{width} (height x width), expected multiples of {multiple}: "
            f"pad or resize them to {padded[0]}x{padded[1]}."
        )


@contextmanager
def single_values_explained() -> Iterator[None]:
    """Adds the remedy to the error of batch normalisation that gets one value per channel.

    It is met by pooled features (DeepLab's image pooling) and by maps of one cell, in a batch of one image.

    Raises:
        ValueError: in place of torch's.
    """
    try:
        yield
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise ValueError(
            f"the student normalises maps of a single value in a batch of one image ({error}): set batch_size to 2 or "
            "more; with 2 or more already, a larger size, or more training images than one"
        ) from error


def output_for(student: Student, batch: Batch) -> StudentOutput:
    """The student's output for a batch whose records may be partly without labels.

    The labelled records are given to it first and alone. Batch normalisation and dropout therefore treat them as in a
    batch that has only them, and the gradient of the task loss is the same.
    """
    inputs, n = batch.inputs(student), batch.labelled
    if n is None or n in (0, len(batch.ids)):
        return student(inputs)
    first, share = student(_rows(inputs, slice(n))), current_slice()
    with use_slice(share and share.unlabelled):
        return joined(first, student(_rows(inputs, slice(n, None))))


def joined(first: StudentOutput, second: StudentOutput) -> StudentOutput:
    """Outputs for two batches as the output for both."""
    levels = {level: torch.cat([f, second.features[level]]) for level, f in first.features.items()}
    logits, penultimate = (torch.cat([first.tensor(k), second.tensor(k)]) for k in ("logits", "penultimate"))
    return StudentOutput(logits, levels, penultimate)


def _rows(inputs: Tensor | dict[str, Tensor], rows: slice) -> Any:
    return {k: v[rows] for k, v in inputs.items()} if isinstance(inputs, dict) else inputs[rows]
