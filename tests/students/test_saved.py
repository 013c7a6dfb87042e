"""A folder with two files is a student with its preprocessing; what is no student is refused by name."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import sward
from sward.pixels import at_size, normaliser, resize
from sward.students import ResUNetPPConfig, SavedStudentError, build_student, load
from sward.students.saved import Preprocessing

CARD = {
    "student": {"kind": "resunetpp"},
    "classes": ["background", "polyp", "tool"],
    "size": [48, 64],
    "mean": [0.485, 0.456, 0.406],
    "std": [0.229, 0.224, 0.225],
    "method": "plain",
}


@pytest.fixture
def folder(tmp_path):
    return save(tmp_path)


def save(folder, **changes):
    network = build_student(ResUNetPPConfig(), 3, 5)
    save_file(network.state_dict(), folder / "student.safetensors")
    (folder / "student.json").write_text(json.dumps(CARD | changes))
    return folder


def picture(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def test_a_student_comes_with_its_card_from_the_package_alone(folder):
    student = sward.students.load(folder)
    assert (student.classes, student.size, student.network.num_classes) == (CARD["classes"], (48, 64), 3)
    assert (list(student.mean), list(student.std), student.training) == (CARD["mean"], CARD["std"], False)


def test_a_picture_is_resized_normalised_and_answered_at_its_own_size(folder):
    student, image = load(folder), picture(51, 37, 3)
    pixels = torch.from_numpy(image).permute(2, 0, 1)
    x = normaliser(CARD["mean"], CARD["std"], torch.device("cpu"))(resize(pixels, (48, 64)))
    with torch.no_grad():
        logits = at_size(student.network(x[None]).logits, (51, 37))[0]
    mask, probabilities = student.predict(image), student.probabilities(image)
    assert (mask.dtype, mask.shape) == (np.uint8, (51, 37))
    assert (mask == logits.argmax(0).numpy()).all()
    np.testing.assert_allclose(probabilities, logits.softmax(0).numpy(), atol=1e-6)


def test_arrays_tensors_and_batches_are_answered_alike(folder):
    student, batch = load(folder), picture(2, 30, 45, 3)
    tensor = torch.from_numpy(batch).permute(0, 3, 1, 2)
    masks = student.predict(batch)
    assert masks.shape == (2, 30, 45)
    assert (student.predict(tensor).numpy() == masks).all()
    assert student(tensor).shape == student.probabilities(tensor).shape == (2, 3, 30, 45)


def test_gradients_reach_the_network_through_forward(folder):
    student = load(folder)
    student(torch.from_numpy(picture(1, 48, 64, 3)).permute(0, 3, 1, 2)).sum().backward()
    assert student.network.classifier.weight.grad is not None


@pytest.mark.parametrize("image", [np.zeros((8, 8), np.uint8), np.zeros((3, 8, 8), np.uint8)])
def test_arrays_that_are_not_rgb_are_refused(folder, image):
    with pytest.raises(ValueError, match=r"expected an RGB array \(H, W, 3\)"):
        load(folder).predict(image)


def test_pixels_that_were_normalised_before_are_refused(folder):
    with pytest.raises(ValueError, match=r"expected uint8 RGB pictures .* found torch.float32"):
        load(folder)(torch.zeros(1, 3, 48, 64))


def test_a_folder_without_a_student_is_refused(tmp_path):
    with pytest.raises(SavedStudentError, match=r"has no student\.json and no student\.safetensors; give the folder"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"student": {"kind": "teacher-head"}}, "teacher-head, which reads cached features; give a student's run"),
        ({"student": {"kind": "unet"}}, "no card of a student: .*'unext', 'resunetpp'"),
        ({"student": {"kind": "unext"}}, r"student\.safetensors does not fit student\.json"),
        ({"mean": [0.5]}, "no card of a student"),
    ],
)
def test_a_card_that_does_not_fit_is_refused(tmp_path, changes, message):
    with pytest.raises(SavedStudentError, match=message):
        load(save(tmp_path, **changes))


def test_broken_files_are_refused(folder):
    (folder / "student.safetensors").write_bytes(b"torn")
    with pytest.raises(SavedStudentError, match="does not fit"):
        load(folder)
    (folder / "student.json").write_text("{")
    with pytest.raises(SavedStudentError, match="no card of a student"):
        load(folder)


@pytest.mark.parametrize(
    "changed", [{"mean": [123.7, 116.3, 103.5]}, {"std": [58.4, 57.1, 57.4]}, {"std": [0.2, 0, 0.2]}]
)
def test_a_card_with_a_normalisation_in_another_unit_is_refused(changed):
    with pytest.raises(ValueError, match="Input should be"):
        Preprocessing.model_validate(CARD | changed)
