"""MobileSAM's image encoder from the published description alone: plain functions over a state dict, no network class.

TinyViT (Wu et al., ECCV 2022, arXiv:2207.10666): a stem of two convolutions, one stage of inverted residuals, three of
window attention with a learned bias for every offset, with a depthwise convolution between attention and MLP. MobileSAM
(Zhang et al., arXiv:2306.14289) leaves out the stride before the last stage. Names are timm's.
"""

import torch
import torch.nn.functional as F

DEPTHS, HEADS, WINDOWS, KEY = (2, 2, 6, 2), (2, 4, 5, 10), (7, 7, 14, 7), 32
STRIDES = (None, 2, 2, 1)  # of the merging before a stage


def conv(state, name, x, stride=1, groups=1):
    """Convolution without bias that keeps the size (or halves it), then batch normalisation by running statistics."""
    kernel = state[f"{name}.conv.weight"]
    x = F.conv2d(x, kernel, None, stride, kernel.shape[-1] // 2, 1, groups)
    mean, var, weight, bias = (state[f"{name}.bn.{k}"] for k in ("running_mean", "running_var", "weight", "bias"))
    scale = weight / (var + 1e-5).sqrt()
    return x * scale[:, None, None] + (bias - mean * scale)[:, None, None]


def stem(state, x):
    return conv(state, "patch_embed.conv2", F.gelu(conv(state, "patch_embed.conv1", x, 2)), 2)


def inverted_residual(state, name, x):
    y = F.gelu(conv(state, f"{name}.conv1", x))
    y = F.gelu(conv(state, f"{name}.conv2", y, groups=y.shape[1]))
    return F.gelu(x + conv(state, f"{name}.conv3", y))


def merging(state, name, x, stride):
    y = F.gelu(conv(state, f"{name}.conv1", x))
    y = F.gelu(conv(state, f"{name}.conv2", y, stride, y.shape[1]))
    return conv(state, f"{name}.conv3", y)


def linear(state, name, x):
    return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]


def norm(state, name, x):
    y = x - x.mean(-1, keepdim=True)
    return y / (y.square().mean(-1, keepdim=True) + 1e-5).sqrt() * state[f"{name}.weight"] + state[f"{name}.bias"]


def offsets(window):
    """Number of the (|dy|, |dx|) of every pair of cells of a window, (n, n); numbered in order of first occurrence."""
    cells = [(i, j) for i in range(window) for j in range(window)]
    numbers = {}
    rows = [[numbers.setdefault((abs(a - c), abs(b - d)), len(numbers)) for c, d in cells] for a, b in cells]
    return torch.tensor(rows)


def attention(state, name, x, heads, index):
    """Self-attention of the cells of one window, (n, C)."""
    found = linear(state, f"{name}.qkv", norm(state, f"{name}.norm", x)).view(len(x), heads, 3 * KEY)
    q, k, v = found.split(KEY, -1)
    heads_out = []
    for h in range(heads):
        scores = q[:, h] @ k[:, h].T / KEY**0.5 + state[f"{name}.attention_biases"][h][index]
        heads_out.append(scores.softmax(-1) @ v[:, h])
    return linear(state, f"{name}.proj", torch.cat(heads_out, -1))


def windowed(state, name, x, heads, window):
    """Attention within the windows of a map (C, H, W), which is padded with zeros to whole windows."""
    high, wide = x.shape[-2:]
    index = offsets(window)
    padded = F.pad(x, (0, -wide % window, 0, -high % window))
    out = torch.empty_like(padded)
    for top in range(0, padded.shape[1], window):
        for left in range(0, padded.shape[2], window):
            cut = padded[:, top : top + window, left : left + window]
            made = attention(state, name, cut.flatten(1).T, heads, index)
            out[:, top : top + window, left : left + window] = made.T.reshape(cut.shape)
    return out[:, :high, :wide]


def block(state, name, x, heads, window):
    """Attention, depthwise convolution, MLP, of a map (1, C, H, W)."""
    x = x + windowed(state, f"{name}.attn", x[0], heads, window)[None]
    x = conv(state, f"{name}.local_conv", x, groups=x.shape[1])
    tokens = norm(state, f"{name}.mlp.norm", x.permute(0, 2, 3, 1))
    hidden = F.gelu(linear(state, f"{name}.mlp.fc1", tokens))
    return x + linear(state, f"{name}.mlp.fc2", hidden).permute(0, 3, 1, 2)


@torch.no_grad()
def published_maps(state, x):
    """The maps after the four stages, of one normalised image (1, 3, H, W)."""
    state, maps = {k: v.float() for k, v in state.items()}, []
    x = stem(state, x)
    for stage, (depth, heads, window, stride) in enumerate(zip(DEPTHS, HEADS, WINDOWS, STRIDES, strict=True)):
        if stride:
            x = merging(state, f"stages.{stage}.downsample", x, stride)
        for number in range(depth):
            name = f"stages.{stage}.blocks.{number}"
            x = block(state, name, x, heads, window) if stage else inverted_residual(state, name, x)
        maps.append(x)
    return maps
