"""Every codec of the table keeps these promises; a new one is tested by being in the union."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from pipeline.cache.errors import StorageOverflow
from pipeline.cache.format.batch_codecs import encode_batch, require_in_range
from pipeline.cache.format.bit_packing import from_groups, group_side, pack, to_groups, unpack
from pipeline.cache.format.codecs import CODECS, FP16

SHAPE = (5, 6, 7)
SHAPES = [SHAPE, (3, 8, 16), (2, 12, 4), (1, 1, 1)]


@pytest.fixture(params=CODECS.values(), ids=CODECS)
def codec(request):
    return request.param


def roundtrip(codec, features):
    parts = {name: torch.from_numpy(a)[None] for name, a in codec.encode("s8", features).items()}
    return codec.decode("s8", parts, features.shape[1:])[0].numpy()


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
    decoded = codec.decode("s8", parts, SHAPE[1:])
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


STEPS = {"fp32": 2**24, "fp16": 2**11, "bf16": 2**8, "int16": 65535, "int8": 255, "int6": 63, "int4": 15}


@pytest.mark.parametrize("shape", SHAPES)
@settings(max_examples=25, deadline=None)
@given(data=st.data(), kind=st.sampled_from(sorted(CODECS)))
def test_the_error_is_bounded_by_the_steps_between_the_least_and_the_largest_value(shape, data, kind):
    f = data.draw(arrays.arrays(np.float32, shape, elements=st.floats(-1000, 1000, width=32)))
    largest = np.abs(f).max(axis=(1, 2), keepdims=True)
    span = f.max(axis=(1, 2), keepdims=True) - f.min(axis=(1, 2), keepdims=True)
    rounding = largest / {"fp32": 2**24, "int16": 2**21, "bf16": 2**8, "fp16": 2**11}.get(kind, 2**10)
    assert (np.abs(roundtrip(CODECS[kind], f) - f) <= 0.52 * span / STEPS[kind] + rounding + 1e-3 / STEPS[kind]).all()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("bits", [4, 6])
def test_packing_few_bit_numbers_is_undone_and_is_what_bit_by_bit_writing_gives(bits, shape):
    side = group_side(*shape[1:])
    levels = np.random.default_rng(0).integers(0, 2**bits, (*shape, side * side)).astype(np.uint8)
    packed = pack(levels, bits)
    assert np.array_equal(unpack(torch.from_numpy(packed), bits, side * side).numpy(), levels)
    number = sum(int(level) << (bits * i) for i, level in enumerate(levels[0, 0, 0]))
    assert packed[0, 0, 0].tobytes() == number.to_bytes(packed.shape[-1], "little")


def test_blocks_are_squares_of_the_map():
    f = np.arange(2 * 8 * 16, dtype=np.float32).reshape(2, 8, 16)
    groups = to_groups(f, 8)
    assert np.array_equal(groups[1, 0, 1].reshape(8, 8), f[1, :, 8:])
    assert np.array_equal(from_groups(torch.from_numpy(groups)[None], 8)[0].numpy(), f)


def test_single_precision_is_lossless_and_bfloat16_is_torchs_own_rounding():
    f = features()
    assert np.array_equal(roundtrip(CODECS["fp32"], f), f)
    assert np.array_equal(roundtrip(CODECS["bf16"], f), torch.from_numpy(f).bfloat16().float().numpy())


@pytest.mark.parametrize(
    ("kind", "most"),
    [("fp32", 4), ("int16", 2.01), ("fp16", 2), ("bf16", 2), ("int8", 1.01), ("int6", 0.82), ("int4", 0.57)],
)
def test_a_level_takes_the_bytes_a_value_that_the_codec_promises(kind, most):
    shape = (16, 32, 32)
    stored = sum(np.prod(s) * np.dtype(t).itemsize for s, t in CODECS[kind].arrays("s8", shape).values())
    assert stored / np.prod(shape) <= most


def test_what_does_not_fit_into_half_precision_is_refused():
    with pytest.raises(StorageOverflow, match="exceeds fp16's 65504; use codec int16 or bf16"):
        FP16().encode("s8", np.full(SHAPE, 7e4, np.float32))


@pytest.mark.parametrize("shape", SHAPES)
def test_torch_encodes_a_batch_to_the_same_bytes(codec, shape):
    rng = np.random.default_rng(1)
    f = (3 * rng.standard_normal((2, *shape)) + rng.standard_normal((2, shape[0], 1, 1))).astype(np.float32)
    f[0, 0] = 0.5  # a constant channel
    laid_out_otherwise = torch.from_numpy(f).to(memory_format=torch.channels_last)
    batch = encode_batch(codec, "s8", laid_out_otherwise)
    for i in range(2):
        expected = codec.encode("s8", f[i])
        assert list(batch) == list(expected)
        for name, array in expected.items():
            assert batch[name][i].numpy().dtype == array.dtype
            assert batch[name][i].numpy().tobytes() == array.tobytes(), name


@pytest.mark.parametrize("value", [70000.0, -70000.0])
def test_a_batch_is_refused_where_a_record_is(codec, value):
    f = np.full((1, 8, 8), value, np.float32)
    found = {n: t[0].numpy() for n, t in encode_batch(codec, "s8", torch.from_numpy(f)[None]).items()}
    try:
        codec.encode("s8", f)
    except StorageOverflow as error:
        with pytest.raises(StorageOverflow, match=str(error)[:12]):
            require_in_range(codec, "s8", found, abs(value))
    else:
        require_in_range(codec, "s8", found, abs(value))


def test_an_int8_view_of_hiera_l_leaves_the_device_in_a_quarter_of_the_bytes():
    """On a device without memory; the widths of Hiera-L at 512 × 1024."""
    levels = {"s4": (144, 128, 256), "s8": (288, 64, 128), "s16": (576, 32, 64), "s32": (1152, 16, 32)}
    maps = {level: torch.empty(1, *shape, device="meta") for level, shape in levels.items()}
    coded = [t.nbytes for level, f in maps.items() for t in encode_batch(CODECS["int8"], level, f).values()]
    assert round(sum(f.nbytes for f in maps.values()) / 1e6, 1) == 35.4
    assert round(sum(coded) / 1e6, 1) == 8.9
