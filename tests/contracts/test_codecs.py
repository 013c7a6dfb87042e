"""Every codec of the table keeps these promises; a new one is tested by being in the union."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from pipeline.cache.codecs import CODECS, FP16, StorageOverflow

SHAPE = (5, 6, 7)


@pytest.fixture(params=CODECS.values(), ids=CODECS)
def codec(request):
    return request.param


def roundtrip(codec, features):
    parts = {name: torch.from_numpy(a)[None] for name, a in codec.encode("s8", features).items()}
    return codec.decode("s8", parts)[0].numpy()


def features(seed=0, scale=3.0):
    rng = np.random.default_rng(seed)
    return (scale * rng.standard_normal(SHAPE) + rng.standard_normal((SHAPE[0], 1, 1))).astype(np.float32)


def test_it_writes_exactly_the_arrays_it_declares(codec):
    declared = codec.arrays("s8", SHAPE)
    written = codec.encode("s8", features())
    assert {n: (a.shape, str(a.dtype)) for n, a in written.items()} == declared


def test_decoded_features_are_within_the_tolerance_it_states(codec):
    f = features()
    assert np.linalg.norm(roundtrip(codec, f) - f) / np.linalg.norm(f) <= codec.tolerance


def test_decoding_gives_float32_batches_of_the_same_shape(codec):
    f = features()
    parts = {n: torch.from_numpy(np.stack([a, a])) for n, a in codec.encode("s8", f).items()}
    decoded = codec.decode("s8", parts)
    assert decoded.shape == (2, *SHAPE)
    assert decoded.dtype == torch.float32


def test_encoding_is_deterministic_and_leaves_its_input_alone(codec):
    f = features()
    kept = f.copy()
    first, second = codec.encode("s8", f), codec.encode("s8", f)
    assert all(np.array_equal(first[n], second[n]) for n in first)
    assert np.array_equal(f, kept)


def test_a_constant_channel_comes_back_as_it_was(codec):
    f = np.full(SHAPE, 0.5, np.float32)
    assert np.array_equal(roundtrip(codec, f), f)


@settings(max_examples=40, deadline=None)
@given(
    f=arrays.arrays(np.float32, SHAPE, elements=st.floats(-1000, 1000, width=32)), kind=st.sampled_from(sorted(CODECS))
)
def test_the_error_is_bounded_by_the_range_of_the_channel(f, kind):
    span = f.max(axis=(1, 2), keepdims=True) - f.min(axis=(1, 2), keepdims=True)
    bound = span / 255 * 0.51 + np.abs(f) * 2.0**-10 + 1e-6
    assert (np.abs(roundtrip(CODECS[kind], f) - f) <= bound).all()


def test_what_does_not_fit_into_half_precision_is_refused():
    with pytest.raises(StorageOverflow, match="exceeds fp16's 65504; use codec int8"):
        FP16().encode("s8", np.full(SHAPE, 7e4, np.float32))
