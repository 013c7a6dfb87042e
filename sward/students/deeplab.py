"""Students from segmentation-models-pytorch (smp): DeepLabV3, DeepLabV3+ and any other decoder-encoder pair of smp.

The published student with 3.30 M parameters is DeepLabV3 (Chen et al., 2017) on MobileNetV3-Small, with an ASPP of
width 128 at output stride 8. DeepLabV3+ (Chen et al., ECCV 2018) at output stride 16 has 2.17 M parameters. Logits
have the decoder's resolution; loss and evaluation resize them to the labels. ASPP draws its dropout from torch's
global generator. Its pooling branch batch-normalises a single value per channel and image, so training needs batches
of two images or more.
"""

from inspect import signature
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, JsonValue
from torch import Tensor, nn

from sward.base_config import NeutralConfig
from sward.compat import import_torchvision_safely
from sward.contracts import Student, StudentOutput
from sward.levels import stride
from sward.students.allocation import TooLarge
from sward.students.encoders import is_file, load_encoder, try_encoder
from sward.students.inputs import require_multiple

MOBILENET = "tu-mobilenetv3_small_100"  # tu-: an encoder of timm, wrapped by smp

# Arguments of smp's models that are not options: the config sets them, or they shape what follows the classifier.
FIXED = {"self", "encoder_name", "encoder_weights", "in_channels", "classes", "kwargs"}
FIXED |= {"activation", "upsampling", "aux_params"}
# dpt is left out: its encoder passes a transformer's prefix tokens to the decoder.
Architecture = Literal[
    "unet", "unetplusplus", "manet", "linknet", "fpn", "pspnet",
    "deeplabv3", "deeplabv3plus", "pan", "upernet", "segformer",
]  # fmt: skip


HUB = "Weights come from the model hub: without network, set encoder_weights: null or fill its cache."
NAMES = "Encoders: segmentation_models_pytorch.encoders.get_encoder_names(), tu-<timm model>."
DEFAULT = "imagenet"  # as smp calls the weights of most encoders
OF_TIMM = (
    "encoder_weights: found {!r}, which is no file (.safetensors, .pt, .pth, .bin), and timm selects weights by the "
    "model's name; set imagenet for those of {}, or the path of a file"
)
NO_PYRAMID = "Its maps have not the strides 4, 8, 16 and 32 that decoders need; choose a pyramid, e.g. tu-repvit_m0_9."


class SMPStudent(Student):
    """Encoder, decoder and classifier of an smp model. Its levels are the encoder's stages from stride 4 on.

    A level is named by its nominal stride 2^i. ``strides`` has the true stride, which is smaller in dilated stages.
    """

    def __init__(self, net: nn.Module, name: str, num_classes: int) -> None:
        super().__init__()
        net_: Any = net  # smp ships no types
        self.name, self.num_classes = name, num_classes
        self.encoder, self.decoder = net_.encoder, net_.decoder
        self.classifier: nn.Conv2d = net_.segmentation_head[0]  # what follows it only upsamples
        output_stride = int(self.encoder.output_stride)
        self.multiple = output_stride if net_.requires_divisible_input_shape else 1
        self.channels = {f"s{2**i}": c for i, c in enumerate(self.encoder.out_channels) if i >= 2}
        self.strides = {level: min(stride(level), output_stride) for level in self.channels}

    def forward(self, images: Tensor) -> StudentOutput:
        """Maps images (B, 3, H, W) to logits (B, K, h, w) and penultimate map (B, C, h, w) at the decoder's stride.

        Levels are (B, C, H/stride, W/stride), with ``channels`` and ``strides``.

        Raises:
            ValueError: the architecture needs H and W divisible by the encoder's output stride, and they are not.
        """
        require_multiple(images, self.multiple, self.name)
        stages = self.encoder(images)
        penultimate = self.decoder(stages)
        levels = dict(zip(self.channels, stages[2:], strict=True))
        return StudentOutput(self.classifier(penultimate), levels, penultimate)


def build_smp(
    architecture: str,
    encoder: str,
    encoder_weights: str | None,
    num_classes: int,
    options: dict[str, Any],
    encoder_options: dict[str, Any],
) -> SMPStudent:
    """Builds an smp model as a student, initialised from torch's current generator.

    Args:
        architecture: smp's name of the decoder.
        encoder: smp's name of the encoder.
        encoder_weights: name of pre-trained encoder weights, or path of a file; None for random ones.
        num_classes: K, channels of the logits.
        options: further arguments of smp's class.
        encoder_options: arguments of timm's model, of encoders from timm (``tu-``).

    Raises:
        ValueError: smp doesn't know the pair or the options, the encoder's weights are not available or not its own,
            or the encoder gives no maps of strides 4 to 32, or takes one size only.
    """
    import_torchvision_safely()
    import segmentation_models_pytorch as smp

    check_options(smp.MODEL_ARCHITECTURES_MAPPING[architecture], options)
    from_timm = encoder.startswith("tu-")
    if encoder_options and not from_timm:
        raise ValueError(f"encoder_options are for encoders of timm (tu-…), found {encoder!r}; remove them")
    file = encoder_weights if encoder_weights and is_file(encoder_weights) else None
    weights: str | bool | None = None if file else encoder_weights
    if weights is not None and from_timm:
        if weights != DEFAULT:  # smp would fetch timm's default weights whatever stands here
            raise ValueError(OF_TIMM.format(encoder_weights, encoder))
        weights = True
    names = {"encoder_name": encoder, "encoder_weights": weights, "classes": num_classes}
    try:
        net = smp.create_model(architecture, **names, **options, **encoder_options)
    except TooLarge:
        raise
    except Exception as error:  # smp, timm and the hub's client raise a dozen types of errors
        remedy = HUB if weights is not None else NO_PYRAMID if "downsampling pattern" in str(error) else NAMES
        raise ValueError(
            f"cannot build {architecture} on encoder {encoder!r} with encoder_weights={encoder_weights!r} "
            f"and options {options | encoder_options}: {type(error).__name__}: {error}. {remedy}"
        ) from error
    if file:
        load_encoder(net.encoder, Path(file))
    if from_timm:
        try_encoder(net.encoder, encoder, encoder_options.get("img_size"))
    return SMPStudent(net, f"{architecture} on {encoder}", num_classes)


def check_options(model: Any, options: dict[str, Any]) -> None:
    """Raises ValueError for options that smp's class does not have, or that only shape its output.

    smp would pass unknown options on to encoders, which ignore them.
    """
    known = sorted(set(signature(model.__init__).parameters) - FIXED)
    if unknown := sorted(set(options) - set(known)):
        raise ValueError(f"{model.__name__}: got options {unknown}, expected some of {known}: correct or remove them.")


class _EncoderConfig(NeutralConfig):
    neutral: ClassVar[dict[str, Any]] = {"encoder_options": {}}

    encoder_options: dict[str, JsonValue] = Field(
        default_factory=dict,
        description="Arguments of timm's model, of encoders from timm, e.g. {bn_eps: 0.001} or {img_size: 256}.",
    )


class _DeepLabConfig(_EncoderConfig):
    encoder: str = Field(MOBILENET, min_length=1, description="Name of the encoder in smp.")
    encoder_weights: str | None = Field(
        None, description="Pre-trained encoder weights, e.g. imagenet (downloaded), or path of a file; null: random."
    )
    decoder_channels: int = Field(128, ge=1, description="Channels of the ASPP.")
    output_stride: Literal[8, 16] = Field(8, description="Largest stride of the encoder, in pixels.")
    dropout: float = Field(0.5, ge=0, lt=1, description="Dropout probability after the ASPP.")

    def _build(self, architecture: str, num_classes: int) -> SMPStudent:
        options = {
            "decoder_channels": self.decoder_channels,
            "encoder_output_stride": self.output_stride,
            "decoder_aspp_dropout": self.dropout,
        }
        return build_smp(architecture, self.encoder, self.encoder_weights, num_classes, options, self.encoder_options)


class DeepLabV3Config(_DeepLabConfig):
    """DeepLabV3: 3,298,739 parameters and 22.62 GMAC (convolutions) at 512x1024 with 19 classes."""

    kind: Literal["deeplabv3"] = Field("deeplabv3", description="Student architecture.")

    def build(self, num_classes: int) -> SMPStudent:
        """Builds the network with ``num_classes`` output channels, initialised from torch's current generator."""
        return self._build("deeplabv3", num_classes)


class DeepLabV3PlusConfig(_DeepLabConfig):
    """DeepLabV3+: 2,165,763 parameters and 5.97 GMAC (convolutions) at 512x1024 with 19 classes."""

    kind: Literal["deeplabv3plus"] = Field("deeplabv3plus", description="Student architecture.")
    decoder_channels: int = Field(256, ge=1, description="Channels of ASPP and decoder.")
    output_stride: Literal[8, 16] = Field(16, description="Largest stride of the encoder, in pixels.")

    def build(self, num_classes: int) -> SMPStudent:
        """Builds the network with ``num_classes`` output channels, initialised from torch's current generator."""
        return self._build("deeplabv3plus", num_classes)


class SMPConfig(_EncoderConfig):
    """Any pair of decoder and encoder of segmentation-models-pytorch."""

    kind: Literal["smp"] = Field("smp", description="Student architecture.")
    architecture: Architecture = Field(description="Name of the decoder in smp.")
    encoder: str = Field(min_length=1, description="Name of the encoder in smp, e.g. resnet18 or tu-<timm model>.")
    encoder_weights: str | None = Field(
        None, description="Pre-trained encoder weights, e.g. imagenet (downloaded), or path of a file; null: random."
    )
    options: dict[str, JsonValue] = Field(
        default_factory=dict, description="Further arguments of smp's class, e.g. decoder_channels."
    )

    def build(self, num_classes: int) -> SMPStudent:
        """Builds the network with ``num_classes`` output channels, initialised from torch's current generator."""
        return build_smp(
            self.architecture, self.encoder, self.encoder_weights, num_classes, self.options, self.encoder_options
        )
