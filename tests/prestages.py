"""A tiny teacher with its real head, for pre-stages; their descent; their overlap term by loops."""

import torch
from torch import Tensor

from sward import seeds
from sward.contracts import IGNORE, Batch, Prestage
from sward.teachers.head import TeacherHead, TeacherHeadConfig

CHANNELS = {"s4": 3, "s8": 4, "s16": 5, "s32": 6}
WIDTH, CLASSES = 8, 3
ALL = CHANNELS | {"penultimate": WIDTH, "logits": CLASSES}


def make_head() -> TeacherHead:
    """Random, frozen, in evaluation mode, float64."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seeds.torch_seed(0, "tiny head"))
        head = TeacherHeadConfig(width=WIDTH).build(CHANNELS, CLASSES)
    return head.double().eval().requires_grad_(False)


def make_batch(head: TeacherHead, side: int = 64) -> Batch:
    """Two records with every teacher tensor; the labels are what the head says, but for the first rows."""
    features = {k: uniform(2, c, side // int(k[1:]), side // int(k[1:]), name=k) for k, c in CHANNELS.items()}
    output = head(features)
    features |= {"penultimate": output.penultimate, "logits": output.logits}
    labels = output.logits.argmax(1).repeat_interleave(4, 1).repeat_interleave(4, 2)
    labels[:, :4] = IGNORE
    return Batch(torch.zeros(2, 3, side, side), labels, features, ["a/0", "b/0"], seed=3)


def uniform(*shape: int, name: str) -> Tensor:
    return torch.from_numpy(seeds.uniforms(int(torch.tensor(shape).prod()), "tiny teacher", name)).view(shape) * 2 - 1


def only(batch: Batch, names: tuple[str, ...]) -> Batch:
    """The batch with the teacher tensors of ``names`` alone."""
    features = {k: batch.features[k] for k in names}
    return Batch(batch.images, batch.labels, features, batch.ids, batch.seed)


def descend(stage: Prestage, batch: Batch, head: TeacherHead | None, steps: int = 25) -> list[dict[str, float]]:
    """The terms of ``steps`` SGD steps at the stage's settings; weights move, the head does not."""
    s = stage.settings
    optimizer = torch.optim.SGD(stage.parameters(), lr=s.lr, momentum=s.momentum, weight_decay=s.weight_decay)
    lines = []
    for _ in range(steps):
        terms = stage(only(batch, stage.needs), head)
        optimizer.zero_grad()
        torch.stack(list(terms.values())).sum().backward()
        optimizer.step()
        lines.append({name: term.item() for name, term in terms.items()})
    return lines


def masks_by_loops(tokens: Tensor, f: Tensor) -> Tensor:
    N, C, H, W = f.shape
    values = [
        1 / (1 + (-sum(token[c] * f[n, c, y, x] for c in range(C))).exp())
        for n in range(N)
        for token in tokens
        for y in range(H)
        for x in range(W)
    ]
    return torch.stack(values).view(N, len(tokens), H, W)


def dice_by_loops(M: Tensor) -> Tensor:
    N, T = M.shape[:2]
    pairs = [(n, t, u) for n in range(N) for t in range(T) for u in range(T) if t != u]
    overlaps = [
        2 * (M[n, t] * M[n, u]).sum() / ((M[n, t] ** 2).sum() + (M[n, u] ** 2).sum() + 2e-12) for n, t, u in pairs
    ]
    return sum(overlaps) / len(pairs)
