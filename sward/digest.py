"""Computes a digest of a network's weights."""

import hashlib
from collections.abc import Mapping

from torch import Tensor


def state_digest(state: Mapping[str, Tensor]) -> str:
    """Returns the sha256 over name, dtype, shape and bytes of a state dict's tensors, independent of their order."""
    h = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        array = tensor.detach().cpu().contiguous().numpy()
        h.update(repr((name, str(array.dtype), array.shape)).encode())
        h.update(array.tobytes())
    return h.hexdigest()
