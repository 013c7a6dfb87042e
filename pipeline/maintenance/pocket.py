"""Trains the pocket teacher: sam2's own Hiera class in a small configuration, on procedural frames.

    python -m pipeline.maintenance.pocket            # writes data/pocket-teacher/{trunk.safetensors,teacher.yaml}

With it both stages really run, offline and within minutes. It is trained only on frames drawn with another seed than
those of the procedural data set, so it never sees a test frame of the quickstart.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
import yaml
from torch import Tensor, nn

from pipeline.datasets.procedural import render
from pipeline.files import write_atomic
from pipeline.training.evaluate import full_prediction
from pipeline.training.optimizer import OptimizerConfig, learning_rate
from sward import seeds
from sward.metrics import SegmentationMetrics
from sward.pixels import normaliser
from sward.teachers.head import TeacherHead, TeacherHeadConfig
from sward.teachers.hiera import LEVELS, MEAN, STD, HieraTeacher, make_trunk

SEED = 1_000_003  # seed of the frames; the procedural data set's card has another one
SIZE = (128, 160)  # (height, width) of a frame in pixels
HELD_OUT = 64  # frames for the metrics, not trained on
normalise = normaliser(MEAN, STD, torch.device("cpu"))


class PocketNet(nn.Module):
    """Trunk and segmentation head, trained together; only the trunk is saved."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = make_trunk("pocket")
        channels: dict[str, int] = dict(zip(LEVELS, reversed(self.trunk.channel_list), strict=True))  # type: ignore[arg-type]
        self.head: TeacherHead = TeacherHeadConfig().build(channels, num_classes=2)

    def forward(self, images: Tensor) -> Tensor:
        features = dict(zip(LEVELS, self.trunk(images), strict=True))
        return self.head(features).logits


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=3000, help="Number of training frames.")
    parser.add_argument("--steps", type=int, default=4000, help="Optimiser steps.")
    parser.add_argument("--batch", type=int, default=16, help="Frames per step.")
    parser.add_argument("--out", type=Path, default=Path("data/pocket-teacher"), help="Folder to write.")
    args = parser.parse_args()
    began = time.monotonic()
    images, labels = frames(args.frames + HELD_OUT)
    torch.manual_seed(seeds.torch_seed(SEED, "pocket"))
    net = PocketNet()
    fit(net, images[HELD_OUT:], labels[HELD_OUT:], args.steps, args.batch)
    metrics = measure(net, images[:HELD_OUT], labels[:HELD_OUT])
    save(
        net,
        args.out,
        {
            "frames": args.frames,
            "steps": args.steps,
            "batch": args.batch,
            "minutes": round((time.monotonic() - began) / 60, 1),
            "held_out": metrics,
        },
    )


def frames(count: int) -> tuple[Tensor, Tensor]:
    """Procedural frames: images (N, 3, H, W) uint8 and labels (N, H, W) int64."""
    with ThreadPoolExecutor(2) as pool:
        made = list(pool.map(lambda i: render(SEED, i, SIZE), range(count)))
    images, labels = (np.stack(arrays) for arrays in zip(*made, strict=True))
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(), torch.from_numpy(labels).long()


def fit(net: PocketNet, images: Tensor, labels: Tensor, steps: int, batch: int) -> None:
    """Train ``net`` with AdamW, cosine decay and cross-entropy; flips are drawn per step."""
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3, weight_decay=0.05)
    schedule = OptimizerConfig(lr=1e-3, warmup_steps=min(100, steps // 4))
    net.train()
    for step, (x, y) in enumerate(batches(images, labels, steps, batch)):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(schedule, step, steps)
        logits = F.interpolate(net(normalise(x)), y.shape[-2:], mode="bilinear", align_corners=False)
        loss = F.cross_entropy(logits, y)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        if step % 100 == 0:
            print(f"step {step}/{steps}  loss {loss.item():.4f}", flush=True)


def batches(images: Tensor, labels: Tensor, steps: int, batch: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yields ``steps`` random batches with random flips, each a function of the step's number."""
    flips: list[Callable[[Tensor], Tensor]] = [
        lambda t: t,
        lambda t: t.flip(-1),
        lambda t: t.flip(-2),
        lambda t: t.flip(-1, -2),
    ]
    for step in range(steps):
        chosen = torch.from_numpy(seeds.integers(batch, len(images), SEED, "batch", step))
        flip = flips[int(seeds.integers(1, 4, SEED, "flip", step)[0])]
        yield flip(images[chosen]), flip(labels[chosen])


@torch.no_grad()
def measure(net: PocketNet, images: Tensor, labels: Tensor) -> dict[str, float]:
    """Dice and IoU of trunk and head on frames that were not trained on."""
    net.eval()
    metrics = SegmentationMetrics(2)
    for i in range(len(images)):
        logits = net(normalise(images[i : i + 1]))[0]
        metrics.update(full_prediction(logits, labels[i].shape)[0], labels[i].numpy().astype(np.uint8), str(i))
    return {k: round(v, 4) for k, v in metrics.compute().items() if k in ("dice", "iou")}


def save(net: PocketNet, folder: Path, facts: dict[str, object]) -> None:
    """Write the trunk in half precision (trunk.safetensors) and its description (teacher.yaml)."""
    from safetensors.torch import save as dump

    half = {k: v.half().contiguous() for k, v in net.trunk.state_dict().items()}
    trunk = make_trunk("pocket")
    trunk.load_state_dict({k: v.float() for k, v in half.items()})
    card = {
        "what": "Hiera of the sam2 package, pocket configuration (sward/teachers/hiera.py)",
        "command": "python -m pipeline.maintenance.pocket",
        "data": f"procedural frames, seed {SEED}, {SIZE[0]}x{SIZE[1]}",
        "digest": HieraTeacher(trunk).digest(),
        "parameters": sum(p.numel() for p in trunk.parameters()),
    } | facts
    write_atomic(folder / "trunk.safetensors", dump(half))
    write_atomic(folder / "teacher.yaml", yaml.safe_dump(card, sort_keys=False))
    print(f"wrote {folder}: {card}")


if __name__ == "__main__":
    main()
