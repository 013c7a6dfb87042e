"""SAM 2's trunk in timm's implementation, with the tensor names of sam2: the same checkpoints, features and digest.

timm comes with segmentation-models-pytorch, so this runs where the package sam2 is not installed. On a CPU the features
of both are equal to the bit; on GPUs they may differ by rounding.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from sward.compat import import_torchvision_safely

# sam2's name -> timm's, of arguments and of tensors
POSITIONS = ("window_pos_embed_bkg_spatial_size", "global_pos_size")
LAYERS = {"mlp.layers.0.": "mlp.fc1.", "mlp.layers.1.": "mlp.fc2."}


class TimmHiera(nn.Module):
    """timm's ``HieraDet`` behind the interface of sam2's ``Hiera``.

    Attributes:
        channel_list: channels of the stages, from deep to shallow.
    """

    def __init__(self, arguments: Mapping[str, Any]) -> None:
        super().__init__()
        import_torchvision_safely()
        from timm.models.hieradet_sam2 import HieraDet

        theirs, ours = POSITIONS
        named = {ours if name == theirs else name: value for name, value in arguments.items()}
        self.net: Any = HieraDet(num_classes=0, **named)
        self.net.head = nn.Identity()  # type: ignore[assignment]  # its norm has no counterpart in sam2
        self.channel_list: list[int] = [info["num_chs"] for info in reversed(self.net.feature_info)]
        self.register_state_dict_post_hook(_to_sam2)
        self.register_load_state_dict_pre_hook(_from_sam2)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Maps images (B, 3, H, W) to the stages' outputs (B, C, H/stride, W/stride), shallow to deep."""
        return self.net.forward_intermediates(images, intermediates_only=True)


def _to_sam2(module: nn.Module, state: dict[str, Any], prefix: str, metadata: Any) -> None:
    for name in [name for name in state if name.startswith(f"{prefix}net.")]:
        renamed = name.removeprefix(f"{prefix}net.")
        for theirs, ours in LAYERS.items():
            renamed = renamed.replace(ours, theirs)
        state[prefix + renamed] = state.pop(name)


def _from_sam2(module: nn.Module, state: dict[str, Any], prefix: str, *args: Any) -> None:
    for name in [name for name in state if name.startswith(prefix)]:
        renamed = name.removeprefix(prefix)
        for theirs, ours in LAYERS.items():
            renamed = renamed.replace(theirs, ours)
        state[f"{prefix}net.{renamed}"] = state.pop(name)
