"""What a step waits follows from rates alone: nothing where reading is faster, the rest of it where it is slower."""

import heapq

import pytest

from pipeline.cost_estimates.waiting import Loading

LOADING = Loading(step_seconds=0.1, batch_size=4, record_bytes=5e6, warm=1e-3, decode=2e-3, workers=2)


def simulated(rate, batch_size, workers, steps=400, ahead=3):
    """Mean wait of a step, record by record: threads copy in parallel, the disk serves one record at a time."""
    disk, threads, ready, done, waited = 0.0, [0.0] * workers, [], [0.0], []
    for step in range(steps):
        for _ in range(batch_size):
            start = max(heapq.heappop(threads), done[max(0, step - ahead)])  # a place among those read ahead is free
            disk = max(disk, start) + LOADING.record_bytes / rate
            end = max(disk, start + LOADING.warm * LOADING.workers)
            heapq.heappush(threads, end)
            ready.append(end)
        begins = max(done[-1], ready[-1])
        waited.append(begins - done[-1])
        done.append(begins + LOADING.step(batch_size))
    return sum(waited[steps // 2 :]) / (steps // 2)


@pytest.mark.parametrize("rate", [2e7, 1e8, 1.9e8, 1e9])
@pytest.mark.parametrize(("batch_size", "workers"), [(4, 2), (16, 2), (4, 8)])
def test_it_is_the_wait_of_a_simulation_record_by_record(rate, batch_size, workers):
    found = LOADING.wait(rate, batch_size, workers)
    assert found == pytest.approx(simulated(rate, batch_size, workers), abs=1e-3)


def test_it_ends_at_the_rate_that_is_enough():
    assert LOADING.enough == pytest.approx(4 * 5e6 / 0.108)
    assert LOADING.wait(LOADING.enough) == 0
    assert LOADING.wait(0.9 * LOADING.enough) == pytest.approx(0.108 / 0.9 - 0.108)


def test_a_faster_disk_does_not_help_where_the_threads_are_the_limit():
    slow = Loading(step_seconds=0.01, batch_size=4, record_bytes=5e6, warm=0.05, decode=0, workers=1)
    assert slow.wait(1e12) == pytest.approx(4 * 0.05 - 0.01)
    assert slow.wait(1e12, workers=4) == pytest.approx(4 * 0.05 / 4 - 0.01)
