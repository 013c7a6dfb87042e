"""The switches of MWAD. Letters (A)-(M) mark what the paper leaves open.

Two settings are named: the defaults, and ``preset: paper``, which takes the text by the letter where it says
something (learned projections, plain zero padding, squared norm) and PyTorch's defaults where it says nothing
(1x1 convolutions).
"""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from sward.presets import PresetConfig

Side = Annotated[int, Field(ge=1, le=128)]


class MWADConfig(PresetConfig):
    """Switches of MWAD; the defaults are the recommended setting."""

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
        default="attn+value+context", description="Which of Eq. 11, 12, 13 are used."
    )
    teacher_proj: Literal["frozen", "learned", "aux"] = Field(
        default="frozen",
        description="(A) What trains phi and Theta_t: nothing; the distillation loss (as printed, may "
        "collapse); or only a 1x1 classifier on V_t.",
    )
    bias: bool = Field(default=False, description="(B) Biases in phi, Theta_t, Theta_s.")
    standardise: bool = Field(
        default=True, description="(C) Standardise teacher channels with the store's mean and std."
    )
    gain: Annotated[float, Field(gt=0)] | Literal["auto"] = Field(
        default="auto", description="(C) Factor on Q and K at the start; 'auto' reaches `entropy` on the first batch."
    )
    entropy: float = Field(
        default=0.65, gt=0, lt=1, description="(C) Target of gain 'auto': mean entropy of A_t over log(tokens)."
    )
    phi_init: Literal["pca", "orthogonal", "default"] = Field(
        default="pca",
        description="(A) Start of phi: principal axes of the first batch, a rotation, PyTorch's default.",
    )
    theta_init: Literal["orthogonal", "default"] = Field(
        default="orthogonal", description="(C) Start of Theta: a rotation for each of Q, K, V, or PyTorch's default."
    )
    max_width: int | None = Field(
        default=None, ge=1, description="(D) Upper bound of d_i; null: d_i = C_s at every stage."
    )
    window: Side | list[Side] = Field(
        default=8,
        description="(E) Window side M, for all stages or one each from the shallowest; clipped to the map.",
    )
    kl_reduction: Literal["tokens", "batchmean", "mean"] = Field(
        default="tokens",
        description="(F) Sum of the KL divided by query tokens, by windows, or by (query, key) pairs.",
    )
    value_eps: float = Field(default=1e-8, gt=0, le=1e-3, description="(G) Lower bound of the norms in the value loss.")
    context_reduction: Literal["mean", "sum"] = Field(
        default="mean", description="(H) Squared context difference: mean or sum over channels; mean over tokens."
    )
    roll: Literal["before_padding", "after_padding"] = Field(
        default="before_padding", description="(I) Whether the map is rolled before or after it is padded."
    )
    seam_mask: bool = Field(
        default=False, description="(I) Hide from each other the tokens joined by the roll, as Swin."
    )
    mask_padding: bool = Field(default=True, description="(J) Padded tokens are no keys and count in no mean.")
    shift: Literal["none", "deterministic", "stochastic"] = Field(
        default="stochastic", description="(K) Offset of the windows: 0, M // 2, or drawn per stage and step."
    )
    pairing: Literal["auto", "stride", "order"] | list[tuple[str, str]] = Field(
        default="auto",
        description="(L) Levels that pair: equal names; by order from the deepest; 'auto': by name where "
        "every level of the shorter list has one, else by order; or a list of [teacher, student].",
    )
    antialias: bool = Field(default=False, description="(M) Antialias the bilinear resize to the common grid.")
