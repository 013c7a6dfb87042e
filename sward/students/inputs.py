"""The one check every student makes of its input: sizes that its strides divide."""

from torch import Tensor


def require_multiple(images: Tensor, multiple: int, student: str) -> None:
    """Refuse images that ``student`` cannot halve and double again without a remainder.

    Args:
        images: (B, 3, H, W).
        multiple: what H and W must be divisible by, pixels.
        student: name for the message.

    Raises:
        ValueError: wrong shape, with what was found and the size to pad to.
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
