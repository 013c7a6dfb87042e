"""Threads: as many as the process has cores, in a container with a limit no more than that."""

import pytest
import torch

from pipeline import devices


def limited(folder, monkeypatch, files):
    monkeypatch.setattr(devices, "CGROUP", folder)
    for name, text in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)


V1 = ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")


@pytest.mark.parametrize(
    ("files", "limit"),
    [
        ({"cpu.max": "200000 100000\n"}, 2),
        ({"cpu.max": "50000 100000\n"}, 1),
        ({"cpu.max": "150000 100000\n"}, 2),
        ({"cpu.max": "max 100000\n"}, None),
        (dict(zip(V1, ("300000\n", "100000\n"), strict=True)), 3),
        (dict(zip(V1, ("-1\n", "100000\n"), strict=True)), None),
        ({}, None),
    ],
    ids=str,
)
def test_a_containers_limit_is_read_from_both_versions_of_cgroups(files, limit, tmp_path, monkeypatch):
    limited(tmp_path, monkeypatch, files)
    assert devices.container_limit() == limit


def test_torch_uses_no_more_threads_than_a_container_may_and_omp_num_threads_decides(tmp_path, monkeypatch):
    limited(tmp_path, monkeypatch, {"cpu.max": "100000 100000"})
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        monkeypatch.setenv("OMP_NUM_THREADS", "3")
        devices.limit_threads()
        assert torch.get_num_threads() == 3
        monkeypatch.delenv("OMP_NUM_THREADS")
        devices.limit_threads()
        assert torch.get_num_threads() == devices.cores() == 1
    finally:
        torch.set_num_threads(before)
