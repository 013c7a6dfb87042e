"""Triton kernels of MWAD beside its reference: prints, as JSON, each case's relative errors. Run in the interpreter.

TRITON_INTERPRET=1 python tests/mwad/triton_cases.py   (the variable counts when Triton is imported)
python tests/mwad/triton_cases.py compile              (for an H100, which need not be there)
"""

import json
import sys
from typing import Any

import torch

from sward import MWAD, MWADConfig
from sward.mwad.attention_terms import plain_terms
from sward.mwad.triton_attention_terms import triton_terms
from sward.mwad.windows import Windows

# settings, teacher's map, student's map, window, student's channels, chosen windows
CASES: dict[str, tuple[dict[str, Any], tuple[int, int], tuple[int, int], int, int, list[int] | None]] = {
    "divisible": ({}, (4, 8), (4, 8), 4, 8, None),
    "odd, padded, masked": ({}, (5, 7), (5, 7), 4, 20, None),
    "padding with biases": ({"bias": True, "mask_padding": False}, (5, 4), (5, 4), 4, 8, None),
    "seam, resized": ({"seam_mask": True, "bias": True}, (5, 6), (6, 4), 3, 8, None),
    "padded first, attention alone": ({"roll": "after_padding", "seam_mask": True, "terms": "attn"},
                                      (5, 4), (5, 4), 4, 8, None),
    "narrow, without contexts": ({"max_width": 5, "terms": "attn+value"}, (4, 4), (4, 4), 4, 8, None),
    "a share of the windows": ({"context_reduction": "sum"}, (5, 7), (5, 7), 4, 8, [0, 3]),
    "wide": ({}, (3, 3), (3, 3), 3, 768, None),
    "several blocks of queries": ({}, (9, 9), (9, 9), 9, 8, None),
}  # fmt: skip


def errors(case: str) -> dict[str, float]:
    """Relative errors of the terms, and of the gradients of their weighted sum, by name."""
    settings, size_t, size_s, side, channels, chosen = CASES[case]
    generator = torch.Generator().manual_seed(0)
    mwad = MWAD({"s8": channels + 4}, {"s8": channels}, MWADConfig(window=side, **settings))
    images = 2 if case.startswith("odd") else 1  # the interpreter is slow
    f_t = 3 + 2 * torch.randn(images, channels + 4, *size_t, generator=generator)
    mwad.prepare({"s8": f_t})
    stage, (H, W) = mwad.stages["s8"], map(min, size_t, size_s)
    windows = Windows(H, W, side, 2, 1, mwad.config.roll == "after_padding")
    masks = windows.masks(mwad.config.mask_padding, mwad.config.seam_mask, f_t.device)
    f_s, found = torch.randn(images, channels, *size_s, generator=generator).requires_grad_(), []
    for form in (plain_terms, triton_terms):
        terms = form(stage, f_t, f_s, windows, *masks, chosen=None if chosen is None else torch.tensor(chosen))
        learned = dict(stage.theta_s.named_parameters())
        total = torch.stack([(i + 1) * term for i, term in enumerate(terms.values())]).sum()
        grads = torch.autograd.grad(total, [f_s, *learned.values()])
        found.append(terms | {f"gradient of {name}": g for name, g in zip(["map", *learned], grads, strict=True)})
    expected, kernels = found
    assert expected.keys() == kernels.keys()
    return {name: float((kernels[name] - x).detach().norm() / x.detach().norm()) for name, x in expected.items()}


def compiled() -> dict[str, int]:
    """Bytes of the machine code of both kernels, in their smallest blocks."""
    from triton import compile as build
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from sward.mwad import kernels

    settings = {"MASKED": True, "COUNTED": True, "VALUE": True, "CONTEXT": True, "PRECISION": "tf32x3"}
    settings |= {"BQ": 16, "BT": 16, "BD": 16}
    types = {
        "table": "*i64",
        "visible": "*u8",
        "valid": "*u8",
        "eps": "fp32",
        **dict.fromkeys(("pixels", "N", "T", "D"), "i32"),
    }
    sizes = {}
    for kernel in (kernels.sums_kernel, kernels.gradients_kernel):
        names = kernel.arg_names
        signature = {name: "constexpr" if name in settings else types.get(name, "*fp32") for name in names}
        constants = {(names.index(name),): value for name, value in settings.items()}
        made = build(ASTSource(kernel, signature, constants), target=GPUTarget("cuda", 90, 32))
        sizes[kernel.__name__] = len(made.asm["cubin"])
    return sizes


if __name__ == "__main__":
    print(json.dumps(compiled() if sys.argv[1:] == ["compile"] else {case: errors(case) for case in CASES}))
