"""Model of how long a training step waits for its records, by disk rate, batch size and reading threads.

Reading ahead overlaps the student's step, so a step waits only for what reading takes longer. Reading takes the longer
of two: the disk's time for the bytes, and the threads' time to copy and check them (measured from memory, without the
disk). Records are decoded on the training device, in the student's time.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Loading:
    """What one training step needs, and what one record costs.

    Attributes:
        step_seconds: seconds per step of ``batch_size`` records without reading; other batch sizes take in proportion.
        batch_size: records per step.
        record_bytes: bytes read per record.
        warm: seconds per record to read it from memory, by ``workers`` threads together.
        decode: seconds per record to decode it on the training device.
        workers: number of reading threads.
    """

    step_seconds: float
    batch_size: int
    record_bytes: float
    warm: float
    decode: float
    workers: int

    def step(self, batch_size: int | None = None) -> float:
        """Seconds per step, decoding included, if no step waits."""
        n = batch_size or self.batch_size
        return n * (self.step_seconds / self.batch_size + self.decode)

    def wait(self, rate: float, batch_size: int | None = None, workers: int | None = None) -> float:
        """Seconds that a step waits once the records read ahead are used up.

        Args:
            rate: bytes per second of the disk.
            batch_size: records per step; None: as measured.
            workers: reading threads; None: as measured. Each is taken to be as fast as it is among the measured ones,
                so there must be a core for each.
        """
        n = batch_size or self.batch_size
        threads = self.warm * self.workers / (workers or self.workers)
        return max(0.0, n * max(self.record_bytes / rate, threads) - self.step(n))

    @property
    def enough(self) -> float:
        """Bytes per second above which the disk makes no step wait."""
        return self.batch_size * self.record_bytes / self.step()
