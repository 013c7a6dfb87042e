"""How the parts of an extraction overlap: the one rule behind `sward plan` and the capacity model."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Pace:
    """What a view takes in each part, in seconds; at how many places each part is done.

    teacher: the forward, on its device. encode: statistics, codec, checksums, on one core, in the teacher's own thread
    (`unit.py`). render: decoding and augmenting, on one core. write: the view's bytes onto the disk. lanes: teachers at
    once, a GPU each. renderers: threads or cores that render; 0 renders in the teacher's thread. threads: of the
    teacher where it runs on the CPU and shares its ``cores`` with the rest; 0 on a GPU.
    """

    teacher: float
    encode: float
    render: float
    write: float
    lanes: int = 1
    renderers: int = 2
    threads: int = 0
    cores: int = 1

    @property
    def parts(self) -> dict[str, float]:
        """Seconds a view of each part if it were alone, all its places at work."""
        return {
            "teacher": self.teacher / self.lanes,
            "encoding": self.encode / self.lanes,
            "rendering": self.render / (self.renderers or self.lanes),
            "writing": self.write,
        }

    @property
    def stages(self) -> dict[str, float]:
        """Seconds a view of what overlaps: the longest decides. Encoding follows the teacher in its thread."""
        parts = self.parts
        main = parts["teacher"] + parts["encoding"] + (0 if self.renderers else parts["rendering"])
        shared = (self.teacher * self.threads + self.encode + self.render) / self.cores if self.threads else 0.0
        return {"main": max(main, shared), "rendering": parts["rendering"], "writing": parts["writing"]}

    @property
    def seconds(self) -> float:
        """Seconds a view of the whole extraction, started and filled."""
        return max(self.stages.values())

    @property
    def driver(self) -> str:
        """The part that decides: teacher, encoding, rendering or writing."""
        longest = max(self.stages, key=self.stages.__getitem__)
        within = ["teacher", "encoding"] + (["rendering"] if self.threads or not self.renderers else [])
        return max(within, key=self.parts.__getitem__) if longest == "main" else longest


def break_even(extraction: float, records: int, teacher: float, read: float) -> float:
    """Passes over ``records`` records after which extracting once costs less than the teacher in the loop.

    All in seconds of the teacher's device: ``extraction`` of the whole store, ``teacher`` and ``read`` of one record.
    Infinite where reading takes longer than the teacher.
    """
    saved = records * (teacher - read)
    return extraction / saved if saved > 0 else float("inf")
