"""What a step costs is counted allocation by allocation, measured fairly, and kept with the comparison."""

import copy
import shutil

import pytest
import torch

from pipeline.experiments.compare import compare
from pipeline.files import read_json, write_json
from pipeline.results import step_costs
from pipeline.training.setup import open_store

FLOAT = 4


def rows(compared):
    return {row["label"]: row for row in compared.json["rows"]}


def chain(x, keep):
    """Three maps one after another; with ``keep`` none is freed before the last is made."""
    a = torch.empty_like(x)
    b = torch.empty_like(x)
    if not keep:
        del a
    c = torch.empty_like(x)
    del b, c


@pytest.mark.parametrize(("keep", "maps"), [(True, 3), (False, 2)])
def test_the_peak_is_what_is_alive_at_once_not_what_was_ever_allocated(keep, maps):
    x = torch.ones(1000)
    assert step_costs.peak_on_cpu(lambda: chain(x, keep)) == maps * 1000 * FLOAT


def test_the_peak_of_a_backward_pass_counts_what_the_graph_keeps():
    x = torch.ones(1000, requires_grad=True)

    def work():
        (gradient,) = torch.autograd.grad(x.exp(), x, torch.ones(1000))
        return gradient

    assert step_costs.peak_on_cpu(work) == 3 * 1000 * FLOAT  # exp(x), the incoming gradient, the gradient


@pytest.mark.gpu
def test_the_peak_on_a_gpu_is_its_allocators_less_what_stood_before():
    x = torch.ones(1 << 20, device="cuda")
    assert step_costs.peak_on_gpu(lambda: chain(x, True), x.device) == 3 * x.nbytes
    assert step_costs.peak_on_gpu(lambda: chain(x, False), x.device) == 2 * x.nbytes


def test_nothing_is_printed_by_the_profiler(capfd):
    step_costs.peak_on_cpu(lambda: torch.ones(3))
    assert capfd.readouterr() == ("", "")


def stepper_of(compared):
    config = compared.config.train.model_copy(update={"method": compared.config.methods["SWARD"]})
    return step_costs.stepper(config, open_store(config))


@pytest.fixture(scope="module")
def sward(compared):
    return stepper_of(compared)


def test_the_peak_of_a_step_repeats_within_a_thousandth_and_is_more_than_what_stands(compared, capfd):
    first, second = (step_costs.peak_bytes(stepper_of(compared)) for _ in range(2))
    weights = sum(p.nbytes for p in stepper_of(compared).run.parameters)
    assert first == pytest.approx(second, rel=1e-3)
    assert first > 4 * weights  # weights, two moments of AdamW, gradients
    assert capfd.readouterr().err == ""


def test_a_step_trains_and_later_steps_have_later_numbers(sward):
    seen = []
    sward.run.objective.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[2]))
    before = [p.detach().clone() for p in sward.run.student.parameters()]
    sward.step()
    sward.step()
    assert seen[1] == seen[0] + 1
    assert seen[0] >= sward.run.config.steps
    assert any(not torch.equal(p, q) for p, q in zip(before, sward.run.student.parameters(), strict=True))


def test_the_bytes_read_are_those_of_the_features_in_stored_precision(sward):
    features = next(sward.run.stream.batches(0, 1)).features.values()
    assert step_costs.read_bytes(sward.run) == sum(f[0].numel() for f in features) * torch.float16.itemsize


def test_rows_take_turns_and_the_first_round_is_not_counted(monkeypatch):
    order = []

    class Row:
        def __init__(self, name):
            self.name = name

        def step(self):
            order.append(self.name)

    seconds = step_costs.rounds(Row("a"), Row("b"))
    assert order == ["a", "b"] * (step_costs.ROUNDS + 1)
    assert [len(s) for s in seconds] == [step_costs.ROUNDS] * 2
    assert step_costs.rounds(Row("alone"), None)[1] == []


def test_the_ratio_is_taken_round_by_round_so_a_slow_spell_cancels():
    assert step_costs.ratio([2.0, 20.0, 2.2], [1.0, 10.0, 1.0]) == 2.0


def test_every_row_says_what_it_costs(compared):
    found = {label: row["cost"] for label, row in rows(compared).items()}
    assert found["student alone"]["reads"] == []
    assert found["SWARD"]["reads"] == found["teacher"]["reads"] == ["s4", "s8", "s16", "s32"]
    assert found["student alone"]["read_bytes"] == 0 < found["SWARD"]["read_bytes"]
    assert found["student alone"]["peak_bytes"] < found["SWARD"]["peak_bytes"]
    assert found["teacher"]["relative"] is found["student alone"]["relative"] is None
    assert found["SWARD"]["relative"] > 0  # how much: a busy machine says anything
    assert compared.json["cost"] == {"rounds": step_costs.ROUNDS, "device": "cpu", "threads": torch.get_num_threads()}


def test_the_same_rows_are_not_measured_again_and_others_are(compared, monkeypatch):
    monkeypatch.setattr(
        step_costs, "measure", lambda configs, baselines, store, show: {k: {"new": True} for k in configs}
    )
    before = compared.json
    configs = dict.fromkeys(rows(compared), compared.config.train)
    same, other = copy.deepcopy(before), copy.deepcopy(before)
    other["rows"][2]["runs"][0]["identity"] = "0" * 64
    step_costs.add_costs(same, before, configs, None)
    step_costs.add_costs(other, before, configs, None)
    assert same == before
    assert [row["cost"] for row in other["rows"]] == [{"new": True}] * 3


@pytest.mark.usefixtures("without_report")
def test_a_comparison_saved_before_there_were_costs_gets_them(compared, tmp_path):
    old = compared.json
    del old["cost"]
    for row in old["rows"]:
        del row["cost"]
    shutil.copytree(compared.folder, tmp_path / compared.config.name)
    write_json(tmp_path / compared.config.name / "comparison.json", old)
    compare(compared.config.model_copy(update={"out": str(tmp_path)}))
    assert read_json(tmp_path / compared.config.name / "comparison.json")["rows"][2]["cost"]["relative"] > 0
