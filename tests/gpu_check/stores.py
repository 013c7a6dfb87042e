"""Checks of stage 1 and of reading: codecs, extraction and verification across devices, pinned buffers under load."""

import torch

from gpu_check.bench import Bench, Facts, relative, require
from pipeline.cache.format.batch_codecs import encode_batch
from pipeline.cache.format.codecs import CODECS
from pipeline.cache.store import Store
from pipeline.cache.tools.verify import verify
from pipeline.cost_estimates.half_precision import measure_half_precision
from pipeline.training.batch_order import Order
from pipeline.training.stream import Stream
from sward.teachers.hiera import HieraTeacher, make_trunk

CPU = torch.device("cpu")


def codecs(bench: Bench) -> Facts:
    """Every codec encodes to the same bytes and decodes to the same numbers on both devices."""
    f, errors = torch.randn(2, 12, 16, 24, generator=torch.Generator().manual_seed(0)), {}
    for kind, codec in CODECS.items():
        parts, there = encode_batch(codec, "s8", f), encode_batch(codec, "s8", f.to(bench.device))
        for name, array in parts.items():
            same = array.numpy().tobytes() == there[name].cpu().numpy().tobytes()
            require(same, f"{kind}: array {name} is encoded to other bytes on {bench.device}")
        on_device = {name: a.to(bench.device) for name, a in parts.items()}
        errors[kind] = relative(codec.decode("s8", on_device, (16, 24)), codec.decode("s8", parts, (16, 24)))
        require(errors[kind] < 1e-6, f"{kind}: decodes with a relative error of {errors[kind]:.1e}")
    return {"decoding_error": errors}


def extraction(bench: Bench) -> Facts:
    """A store made on the device verifies on the CPU, and one made on the CPU on the device; in both precisions."""
    found = {}
    for autocast in (False, True):
        for made, checked in ((str(bench.device), "cpu"), ("cpu", str(bench.device))):
            name = f"made-on-{made.replace(':', '')}-{'bf16' if autocast else 'fp32'}"
            teacher = bench.cache.teacher.model_copy(update={"autocast": autocast})
            config = bench.store(name, device=made, codec={"kind": "int8"}, teacher=teacher)
            result = verify(Store(config.store).path, 4, config=config.model_copy(update={"device": checked}))
            require(result.ok, f"{name}, verified on {checked}: {'; '.join(result.problems[:2])}")
            found[f"{name} on {checked}"] = {level: error for level, (_, error) in result.levels.items()}
    return {"relative_error": found}


def teacher_speed(bench: Bench) -> Facts:
    """Time per view of Hiera in float32 and bfloat16, with the error of every level; random weights."""
    architecture, side = ("large", 512) if bench.on_gpu else ("pocket", 64)
    torch.manual_seed(0)
    teacher = HieraTeacher(make_trunk(architecture))
    found = measure_half_precision(teacher, torch.randn(4, 3, side, side), str(bench.device))
    limit = 0.2  # of random weights; a trained trunk's is 0.02
    require(max(found.errors.values()) < limit, f"bfloat16 changes the features by {found.errors}")
    return {"architecture": architecture, "seconds_per_view": list(found.seconds), "error": found.errors}


def buffers(bench: Bench) -> Facts:
    """Batches that arrive while the device is busy and memory is reused are those that a CPU reads."""
    store = Store(bench.cache.store)
    order = Order(tuple(store.records["train"]), 4, seed=0)
    steps, load = 60 if bench.on_gpu else 6, torch.randn(1024 if bench.on_gpu else 64, 64, device=bench.device)
    expected = Stream(store, order, ("s4", "s32"), CPU, workers=0).batches(0, steps)
    stream = Stream(store, order, ("s4", "s32"), bench.device, workers=2, prefetch=3)
    for step, (batch, wanted) in enumerate(zip(stream.batches(0, steps), expected, strict=True)):
        for _ in range(10):
            load = (load @ load.T @ load).clamp(-1, 1)
        for name in ("s4", "s32"):
            error = relative(batch.features[name], wanted.features[name])
            require(error < 1e-6, f"step {step}: {name} arrived with a relative error of {error:.1e}")
        require(torch.equal(batch.labels.cpu(), wanted.labels), f"step {step}: other labels arrived")
    return {"batches": steps}
