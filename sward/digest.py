"""One digest for the weights of any network."""

import hashlib
from collections.abc import Mapping

from torch import Tensor


def state_digest(state: Mapping[str, Tensor]) -> str:
    """sha256 over name, dtype, shape and bytes of a state dict's tensors, whatever their order."""
    h = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        array = tensor.detach().cpu().contiguous().numpy()
        h.update(repr((name, str(array.dtype), array.shape)).encode())
        h.update(array.tobytes())
    return h.hexdigest()
