"""What enters CIRKD's queues, where, and what never does."""

import pytest
import torch
from rivals import CLASSES, TEACHER, randn

from sward import seeds
from sward.contracts import IGNORE
from sward.methods.cirkd.config import CIRKDQueues
from sward.methods.cirkd.queues import ChannelQueue, ClassQueues, first_permuted, unit_vectors, write
from sward.methods.cirkd.relations import pixels
from sward.methods.cirkd.target import present

PIXEL, REGION = 12, 3


def queues():
    found = ClassQueues(CLASSES, TEACHER, CIRKDQueues(pixel=PIXEL, region=REGION, pixels_per_class=4)).double()
    found.reset(seed=9)
    return found


def scene():
    """(f_t, y): image 0 has class 0 nine times and class 2 twice, image 1 class 0 five times; the rest not counted."""
    y = torch.full((2, 3, 4), IGNORE)
    y[0].view(-1)[:9] = 0
    y[0].view(-1)[10:] = 2
    y[1].view(-1)[3:8] = 0
    return randn(2, TEACHER, 3, 4, seed=4), y


def filing(y):
    return [torch.arange(len(index)).flip(0) for _, _, index in present(y)]


def vector(f, image, position):
    v = f[image].flatten(1)[:, position]
    return v / v.square().sum().sqrt()


def test_present_lists_images_in_order_and_their_classes_ascending():
    _, y = scene()
    found = [(image, k, index.tolist()) for image, k, index in present(y)]
    assert found == [(0, 0, [*range(9)]), (0, 2, [10, 11]), (1, 0, [3, 4, 5, 6, 7])]


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        # the last positions of the class, as the permutations count down; as_code: those numbers among all pixels
        ("fixed", {0: [(0, 8), (0, 7), (0, 6), (0, 5), (1, 7), (1, 6), (1, 5), (1, 4)], 2: [(0, 11), (0, 10)]}),
        ("as_code", {0: [(0, 8), (0, 7), (0, 6), (0, 5), (1, 4), (1, 3), (1, 2), (1, 1)], 2: [(0, 1), (0, 0)]}),
    ],
)
def test_up_to_so_many_pixels_of_every_image_and_class_enter_in_order(rule, expected):
    f, y = scene()
    memory, untouched = queues(), queues()
    memory.enqueue(pixels(f), present(y), filing(y), 4, rule)
    for k in range(CLASSES):
        rows = expected.get(k, [])
        for at, (image, position) in enumerate(rows):
            torch.testing.assert_close(memory.pixel[k, at], vector(f, image, position))
        assert torch.equal(memory.pixel[k, len(rows) :], untouched.pixel[k, len(rows) :])
        assert memory.next[0, k] == len(rows)


def test_the_code_takes_pixels_of_other_classes_and_uncounted_ones():
    f, y = scene()
    memory = queues()
    memory.enqueue(pixels(f), present(y), filing(y), 4, "as_code")
    assert y[0].flatten()[0] == 0
    torch.testing.assert_close(memory.pixel[2, 1], vector(f, 0, 0))
    assert y[1].flatten()[1] == IGNORE
    torch.testing.assert_close(memory.pixel[0, 7], vector(f, 1, 1))


def test_a_region_is_the_direction_of_the_mean_of_its_pixels_directions():
    f, y = scene()
    memory = queues()
    memory.enqueue(pixels(f), present(y), filing(y), 4, "fixed")
    mean = sum(vector(f, 1, i) for i in range(3, 8)) / 5
    torch.testing.assert_close(memory.region[0, 1], mean / mean.norm())
    assert memory.next[1].tolist() == [2, 0, 1]


def test_a_ring_begins_anew_after_its_last_place():
    f, y = scene()
    memory = queues()
    for _ in range(2):
        memory.enqueue(pixels(f), present(y), filing(y), 4, "fixed")
    assert memory.next.tolist() == [[(2 * 8) % PIXEL, 0, 4], [(2 * 2) % REGION, 0, 2]]
    ring, at = torch.zeros(3, 1), torch.tensor(2)
    write(ring, at, torch.tensor([[1.0], [2.0]]))
    assert ring.flatten().tolist() == [2, 0, 1]
    assert at == 1


def test_a_sample_takes_the_same_places_of_every_class():
    memory = queues()
    drawn = torch.tensor([5, 0])
    assert torch.equal(memory.sampled("pixel", drawn), torch.cat([memory.pixel[k, [5, 0]] for k in range(CLASSES)]))


def test_all_vectors_have_length_one_from_the_start_and_follow_the_seed():
    memory = queues()
    lengths = torch.cat([memory.pixel.norm(dim=-1).flatten(), memory.region.norm(dim=-1).flatten()])
    torch.testing.assert_close(lengths, torch.ones_like(lengths))
    assert torch.equal(memory.pixel, queues().pixel)
    assert not torch.equal(unit_vectors(4, 3, 0, "pixel", 0), unit_vectors(4, 3, 1, "pixel", 0))
    assert not torch.equal(memory.pixel[0], memory.pixel[1])


def test_channels_enter_by_their_rows_and_a_state_brings_its_own_width():
    queue = ChannelQueue(5).double()
    queue.reset(seed=3, positions=4)
    maps = randn(2, 3, 4, seed=6)
    queue.enqueue(maps, torch.tensor([4, 0]))
    assert torch.equal(queue.ring[:2], torch.stack([maps[1, 1], maps[0, 0]]))
    other = ChannelQueue(5).double()
    other.load_state_dict(queue.state_dict())
    assert torch.equal(other.ring, queue.ring)
    assert other.next == 2


@pytest.mark.parametrize("n", [0, 1, 4, 5, 300])
def test_the_beginning_of_a_permutation_is_that_of_the_whole_one(n):
    whole = torch.from_numpy(seeds.permutation(n, 3, "x"))
    assert torch.equal(first_permuted(4, n, 3, "x"), whole[:4])
    assert torch.equal(first_permuted(n, n, 3, "x"), whole)
