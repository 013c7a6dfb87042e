"""Configuration of MWAD. The letters (A)-(M) mark choices that the paper leaves open.

There are two presets: the defaults, which are recommended, and ``preset: paper``. The latter follows the paper's text
literally where it is explicit (learned projections, plain zero padding, squared norm), and uses PyTorch's defaults
where it is silent (initial values of the 1x1 convolutions).
"""

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from sward.base_config import NeutralConfig
from sward.presets import PresetConfig

Side = Annotated[int, Field(ge=1, le=128)]


class MWADConfig(NeutralConfig, PresetConfig):
    """Settings of MWAD; the defaults are recommended."""

    neutral: ClassVar[dict[str, Any]] = {"window_share": 1}
    paper: ClassVar[dict[str, Any]] = {
        "teacher_proj": "learned",
        "bias": True,
        "standardise": False,
        "gain": 1.0,
        "phi_init": "default",
        "theta_init": "default",
        "context_reduction": "sum",
        "mask_padding": False,
    }

    terms: Literal["attn", "attn+value", "attn+value+context"] = Field(
        default="attn+value+context", description="Terms of the loss: Eq. 11 (attn), 12 (value), 13 (context)."
    )
    teacher_proj: Literal["frozen", "learned", "aux"] = Field(
        default="frozen",
        description="(A) Training of phi and Theta_t: none (frozen); by the distillation loss (learned, as printed; "
        "may collapse); or only by a 1x1 classifier on V_t (aux).",
    )
    bias: bool = Field(default=False, description="(B) Whether phi, Theta_t and Theta_s have biases.")
    standardise: bool = Field(
        default=True, description="(C) Standardise teacher channels with the store's mean and std."
    )
    gain: Annotated[float, Field(gt=0)] | Literal["auto"] = Field(
        default="auto",
        description="(C) Initial factor on Q and K; 'auto' fits it so that the first batch has the mean `entropy`.",
    )
    entropy: float = Field(
        default=0.65, gt=0, lt=1, description="(C) Target of gain 'auto': mean entropy of A_t divided by log(tokens)."
    )
    phi_init: Literal["pca", "orthogonal", "default"] = Field(
        default="pca",
        description="(A) Initial phi: principal axes of the first batch, a random rotation, or PyTorch's default.",
    )
    theta_init: Literal["orthogonal", "default"] = Field(
        default="orthogonal",
        description="(C) Initial Theta: a random rotation for each of Q, K and V, or PyTorch's default.",
    )
    max_width: int | None = Field(
        default=None, ge=1, description="(D) Upper bound of d_i, the width of Q, K, V; null: d_i = C_s at every stage."
    )
    window: Side | list[Side] = Field(
        default=8,
        description="(E) Window side M in cells: for all stages, or a list from the shallowest; clipped to the map.",
    )
    kl_reduction: Literal["tokens", "batchmean", "mean"] = Field(
        default="tokens",
        description="(F) Divisor of the summed KL: query tokens, windows (batchmean) or (query, key) pairs (mean).",
    )
    value_eps: float = Field(default=1e-8, gt=0, le=1e-3, description="(G) Lower bound of norms in the value loss.")
    context_reduction: Literal["mean", "sum"] = Field(
        default="mean", description="(H) Squared context difference: mean or sum over channels, then mean over tokens."
    )
    roll: Literal["before_padding", "after_padding"] = Field(
        default="before_padding", description="(I) Whether a map is rolled before or after padding."
    )
    seam_mask: bool = Field(
        default=False,
        description="(I) Mask attention between tokens that the roll joins from opposite borders, as Swin.",
    )
    mask_padding: bool = Field(default=True, description="(J) Exclude padded tokens from the keys and from all means.")
    shift: Literal["none", "deterministic", "stochastic"] = Field(
        default="stochastic", description="(K) Offset of the windows: 0, M // 2, or random per stage and step."
    )
    window_share: float = Field(
        default=1.0,
        gt=0,
        le=1,
        description="Share of the windows that a step compares, drawn anew at every step and stage; the expected terms "
        "are those of all windows. Not with teacher_proj: aux.",
    )
    pairing: Literal["auto", "stride", "order"] | list[tuple[str, str]] = Field(
        default="auto",
        description="(L) Pairs of levels: 'stride' (equal ones); 'order' (from the deepest upwards); 'auto' (by stride "
        "if every level of the shorter list has a partner, else by order); or a list of [teacher, student], in which a "
        "level of either side may have several partners. With `teacher.size`, strides are those of the cells on the "
        "student's image. Several teachers are paired one by one.",
    )
    antialias: bool = Field(default=False, description="(M) Antialiasing of the bilinear resize to the common grid.")

    @model_validator(mode="after")
    def _share_without_aux(self) -> Self:
        if self.window_share < 1 and self.teacher_proj == "aux":
            raise ValueError(
                f"window_share is {self.window_share:g} with teacher_proj: aux, whose classifier is trained on all "
                "windows; set window_share: 1, or teacher_proj: frozen"
            )
        return self
