"""Students from segmentation-models-pytorch (smp): DeepLabV3, DeepLabV3+ and any other pair it knows.

The published student with 3.30 M parameters is DeepLabV3 (Chen et al., 2017) on MobileNetV3-Small with an
ASPP of width 128 at output stride 8; DeepLabV3+ (Chen et al., ECCV 2018) at stride 16 has 2.17 M. Logits are
returned at the decoder's resolution, the loss and the evaluation bring them to the label's. ASPP draws its
dropout from torch's global generator, and normalises one value per channel: train with two images or more.
"""

from inspect import signature
from typing import Any, Literal

from pydantic import Field, JsonValue
from torch import Tensor, nn

from sward.compat import import_torchvision_safely
from sward.contracts import Config, Student, StudentOutput
from sward.students.inputs import require_multiple

MOBILENET = "tu-mobilenetv3_small_100"  # tu-: timm's, under smp's contract of encoders

# Arguments of smp's models that are not options: set by the config, or about what comes after the classifier.
FIXED = {"self", "encoder_name", "encoder_weights", "in_channels", "classes", "kwargs"}
FIXED |= {"activation", "upsampling", "aux_params"}
# Not dpt: it has a transformer's prefix tokens between encoder and decoder.
Architecture = Literal[
    "unet", "unetplusplus", "manet", "linknet", "fpn", "pspnet",
    "deeplabv3", "deeplabv3plus", "pan", "upernet", "segformer",
]  # fmt: skip


class SMPStudent(Student):
    """Encoder, decoder and classifier of an smp model, whose levels are the encoder's from stride 4 on.

    A level is named by its nominal stride 2^i; ``strides`` holds the true one, smaller where it is dilated.
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
        self.strides = {level: min(int(level[1:]), output_stride) for level in self.channels}

    def forward(self, images: Tensor) -> StudentOutput:
        """Images (B, 3, H, W) -> logits (B, K, h, w); ValueError for sizes the stride doesn't divide."""
        require_multiple(images, self.multiple, self.name)
        stages = self.encoder(images)
        penultimate = self.decoder(stages)
        levels = dict(zip(self.channels, stages[2:], strict=True))
        return StudentOutput(self.classifier(penultimate), levels, penultimate)


def build_smp(
    architecture: str, encoder: str, encoder_weights: str | None, num_classes: int, options: dict[str, Any]
) -> SMPStudent:
    """An smp model as a student, initialised from torch's current generator.

    Raises:
        ValueError: smp doesn't know the pair or the options, or the encoder's weights cannot be had.
    """
    import_torchvision_safely()
    import segmentation_models_pytorch as smp

    check_options(smp.MODEL_ARCHITECTURES_MAPPING[architecture], options)
    weights: str | bool | None = encoder_weights
    if encoder_weights is not None and encoder.startswith("tu-"):
        weights = True  # timm writes the variant into the name: tu-resnet18.a1_in1k
    names = {"encoder_name": encoder, "encoder_weights": weights, "classes": num_classes}
    try:
        net = smp.create_model(architecture, **names, **options)
    except Exception as error:  # smp, timm and the hub's client raise a dozen kinds
        remedy = (
            "Weights come from the model hub: without network, set encoder_weights: null or fill its cache."
            if encoder_weights is not None
            else "Encoders: segmentation_models_pytorch.encoders.get_encoder_names(), tu-<timm model>."
        )
        raise ValueError(
            f"cannot build {architecture} on encoder {encoder!r} with encoder_weights={encoder_weights!r} "
            f"and options {options}: {type(error).__name__}: {error}. {remedy}"
        ) from error
    return SMPStudent(net, f"{architecture} on {encoder}", num_classes)


def check_options(model: Any, options: dict[str, Any]) -> None:
    """Refuse options that smp would hand on to encoders which swallow them, or that only shape its output."""
    known = sorted(set(signature(model.__init__).parameters) - FIXED)
    if unknown := sorted(set(options) - set(known)):
        raise ValueError(f"{model.__name__}: got options {unknown}, expected some of {known}: correct them.")


class _DeepLabConfig(Config):
    encoder: str = Field(MOBILENET, min_length=1, description="smp's name of the encoder")
    encoder_weights: str | None = Field(
        None, description="pre-trained encoder weights, e.g. imagenet: needs the network; null: random"
    )
    decoder_channels: int = Field(128, ge=1, description="width of the ASPP")
    output_stride: Literal[8, 16] = Field(8, description="deepest stride of the encoder, pixels")
    dropout: float = Field(0.5, ge=0, lt=1, description="dropout behind the ASPP")

    def _build(self, architecture: str, num_classes: int) -> SMPStudent:
        options = {
            "decoder_channels": self.decoder_channels,
            "encoder_output_stride": self.output_stride,
            "decoder_aspp_dropout": self.dropout,
        }
        return build_smp(architecture, self.encoder, self.encoder_weights, num_classes, options)


class DeepLabV3Config(_DeepLabConfig):
    """DeepLabV3: 3,298,739 parameters and 22.62 GMAC (convolutions) at 512x1024 with 19 classes."""

    kind: Literal["deeplabv3"] = Field("deeplabv3", description="which student")

    def build(self, num_classes: int) -> SMPStudent:
        """The network with ``num_classes`` outputs, initialised from torch's current generator."""
        return self._build("deeplabv3", num_classes)


class DeepLabV3PlusConfig(_DeepLabConfig):
    """DeepLabV3+: 2,165,763 parameters and 5.97 GMAC (convolutions) at 512x1024 with 19 classes."""

    kind: Literal["deeplabv3plus"] = Field("deeplabv3plus", description="which student")
    decoder_channels: int = Field(256, ge=1, description="width of ASPP and decoder")
    output_stride: Literal[8, 16] = Field(16, description="stride at which the encoder stops striding, pixels")

    def build(self, num_classes: int) -> SMPStudent:
        """The network with ``num_classes`` outputs, initialised from torch's current generator."""
        return self._build("deeplabv3plus", num_classes)


class SMPConfig(Config):
    """Any pair of decoder and encoder that segmentation-models-pytorch knows."""

    kind: Literal["smp"] = Field("smp", description="which student")
    architecture: Architecture = Field(description="smp's name of the decoder")
    encoder: str = Field(min_length=1, description="smp's name of the encoder, e.g. resnet18 or tu-<timm model>")
    encoder_weights: str | None = Field(
        None, description="pre-trained encoder weights, e.g. imagenet: needs the network; null: random"
    )
    options: dict[str, JsonValue] = Field(
        default_factory=dict, description="further arguments of smp's class, e.g. decoder_channels"
    )

    def build(self, num_classes: int) -> SMPStudent:
        """The network with ``num_classes`` outputs, initialised from torch's current generator."""
        return build_smp(self.architecture, self.encoder, self.encoder_weights, num_classes, self.options)
