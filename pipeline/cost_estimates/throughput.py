"""Throughput model of an extraction: which stages overlap and which one limits.

`sward plan` and the capacity model (`capacity.py`) both use it.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class StageTimes:
    """Seconds per view in each part of an extraction, and the threads that run the parts (`unit_writer.py`).

    Teacher threads on the CPU run in step, so other work without a free core delays all of them.

    Attributes:
        teacher: seconds of the forward pass, on its device.
        encode: seconds of statistics and codec, on one core.
        render: seconds of decoding and augmenting, on one core.
        append: seconds of checksums and the copy to the system's file cache, on one core.
        write: seconds to write the view's bytes to the disk.
        num_teachers: teachers that run at once, one per GPU.
        workers: threads or cores that render and encode; 0: the teacher's thread does everything.
        threads: CPU threads of the teacher; 0 on a GPU.
        cores: CPU cores for the teacher's threads and all other work.
    """

    teacher: float
    encode: float
    render: float
    append: float
    write: float
    num_teachers: int = 1
    workers: int = 2
    threads: int = 0
    cores: int = 1

    @property
    def parts(self) -> dict[str, float]:
        """Part -> seconds per view if it ran alone, on all its threads or GPUs."""
        workers = self.workers or self.num_teachers
        return {
            "teacher": self.teacher / self.num_teachers,
            "encoding": self.encode / workers,
            "rendering": self.render / workers,
            "writing": max(self.append / self.num_teachers, self.write),
        }

    @property
    def stages(self) -> dict[tuple[str, ...], float]:
        """Stages (parts that share threads) -> seconds per view; stages overlap, so the longest one limits."""
        parts = self.parts
        if self.workers:
            together = [("teacher",), ("encoding", "rendering"), ("writing",)]
            found = {names: sum(parts[name] for name in names) for names in together}
        else:
            one = (self.teacher + self.encode + self.render + self.append) / self.num_teachers
            found = {("teacher", "encoding", "rendering"): one, ("writing",): self.write}
        if self.threads:
            key, free = ("teacher", "encoding", "rendering"), max(0, self.cores - self.threads)
            rest = self.encode + self.render + self.append
            crowded = self.teacher + max(0.0, rest - free * self.teacher) / max(1, free)
            found[key] = max(found.get(key, 0.0), crowded)
        return found

    @property
    def seconds(self) -> float:
        """Seconds per view of the whole extraction, once all stages are busy."""
        return max(self.stages.values())

    @property
    def driver(self) -> str:
        """The part that limits: teacher, encoding, rendering or writing."""
        longest = max(self.stages, key=self.stages.__getitem__)
        core_seconds = {
            "teacher": self.teacher * max(1, self.threads),
            "encoding": self.encode,
            "rendering": self.render,
        }
        return max(longest, key=lambda name: core_seconds.get(name, 0.0))


def break_even(extraction: float, records: int, teacher: float, read: float) -> float:
    """Passes over ``records`` records after which extracting once costs less than the teacher in the loop.

    Infinite if reading takes longer than the teacher.

    Args:
        extraction: seconds of the teacher's device for the whole store.
        records: records per pass.
        teacher: seconds of the teacher's device per record.
        read: seconds per record to read (and decode) it.
    """
    saved = records * (teacher - read)
    return extraction / saved if saved > 0 else float("inf")
