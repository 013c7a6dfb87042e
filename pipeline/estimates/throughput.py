"""How the parts of an extraction overlap: the one rule behind `sward plan` and the capacity model."""

from dataclasses import dataclass


@dataclass(frozen=True)
class StageTimes:
    """What a view takes in each part, in seconds; at how many places each part is done (`unit.py`).

    teacher: the forward, on its device. encode: statistics and codec, on one core. render: decoding and augmenting, on
    one core. append: checksums and the copy to the system's file cache, on one core. write: the view's bytes onto the
    disk. num_teachers: at once, one per GPU. workers: threads or cores that render and encode; 0: all in the teacher's
    thread. threads: of the teacher where it runs on the CPU, 0 on a GPU. They wait for each other, so what finds none
    of the ``cores`` free beside them holds all of them up.
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
        """Seconds a view of each part if it were alone, all its places at work."""
        workers = self.workers or self.num_teachers
        return {
            "teacher": self.teacher / self.num_teachers,
            "encoding": self.encode / workers,
            "rendering": self.render / workers,
            "writing": max(self.append / self.num_teachers, self.write),
        }

    @property
    def stages(self) -> dict[tuple[str, ...], float]:
        """Parts that share their places -> seconds a view; these overlap, so the longest decides."""
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
        """Seconds a view of the whole extraction, started and filled."""
        return max(self.stages.values())

    @property
    def driver(self) -> str:
        """The part that decides: teacher, encoding, rendering or writing."""
        longest = max(self.stages, key=self.stages.__getitem__)
        core_seconds = {
            "teacher": self.teacher * max(1, self.threads),
            "encoding": self.encode,
            "rendering": self.render,
        }
        return max(longest, key=lambda name: core_seconds.get(name, 0.0))


def break_even(extraction: float, records: int, teacher: float, read: float) -> float:
    """Passes over ``records`` records after which extracting once costs less than the teacher in the loop.

    All in seconds of the teacher's device: ``extraction`` of the whole store, ``teacher`` and ``read`` of one record.
    Infinite where reading takes longer than the teacher.
    """
    saved = records * (teacher - read)
    return extraction / saved if saved > 0 else float("inf")
