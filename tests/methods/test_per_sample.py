"""A method that processes share sample by sample gives the mean of its samples, in forms beside the defaults too."""

import pytest
import torch
from rivals import CLASSES, build, labels_of, maps

from sward.contracts import Batch, StudentOutput
from sward.methods.radio.radio import RADIOConfig
from sward.methods.relations.afdcd import AfDCDConfig
from sward.methods.relations.dist import DISTConfig
from sward.methods.relations.ifvd import IFVDConfig
from sward.methods.relations.skd import SKDConfig

SHARED = [
    SKDConfig(),
    SKDConfig(norm_gradient="as_code", scale=0.5),
    IFVDConfig(reduction="as_code"),
    DISTConfig(scope="image", rows="as_code"),
    AfDCDConfig(mask="fixed", projector="enhanced", reduction="sum"),
    RADIOConfig(),
    RADIOConfig(loss="mse", head="mlp", target="raw"),
]
WHOLE = [
    SKDConfig(mask=True),
    SKDConfig(pixel_form="as_code"),
    IFVDConfig(means="batch"),
    DISTConfig(),
    DISTConfig(scope="image"),
    AfDCDConfig(),
]


def of_rows(method, rows):
    f_s, f_t = maps()
    labels = labels_of(f_t)
    labels[0, :8] = 255  # the first sample has fewer labels
    f_s, f_t, labels = f_s[rows], f_t[rows], labels[rows]
    features = {"s32": f_t, "penultimate": f_t, "logits": f_t[:, :CLASSES]}
    batch = Batch(f_t, labels, features, ["a/0", "b/0"][rows], seed=5)
    return method(StudentOutput(f_s, {"s16": f_s, "s32": f_s}, f_s), batch, 0)


def mean_of_each(method):
    first, second = of_rows(method, slice(0, 1)), of_rows(method, slice(1, 2))
    return {name: (first[name] + second[name]) / 2 for name in first}


@pytest.mark.parametrize("config", SHARED, ids=repr)
def test_every_term_is_the_mean_of_what_each_sample_gives_alone(config):
    method = build(config)
    assert method.per_sample
    whole, mean = of_rows(method, slice(0, 2)), mean_of_each(method)
    assert all(torch.isclose(whole[name], mean[name], rtol=1e-10) for name in whole)


@pytest.mark.parametrize("config", WHOLE, ids=repr)
def test_what_is_no_such_mean_sees_the_whole_batch(config):
    method = build(config)
    assert not method.per_sample
    whole, mean = of_rows(method, slice(0, 2)), mean_of_each(method)
    assert not all(torch.isclose(whole[name], mean[name], rtol=1e-10) for name in whole)
