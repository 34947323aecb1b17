import torch

from triggers.draws import integers, uniform, window


def test_draws_are_those_of_seed_0_without_a_generator():
    images = torch.zeros(6, 1, 2, 2)
    expected = torch.rand(6, 3, generator=torch.Generator().manual_seed(0))
    assert torch.equal(uniform(images, (3,), None), expected)
    assert uniform(images.double(), (3,), None).dtype == torch.float64


def test_whole_numbers_stay_below_their_limits_and_reach_them():
    drawn = integers(torch.zeros(400, 1, 1, 1), (1, 3, 7), torch.Generator().manual_seed(1))
    assert drawn.dtype == torch.int64
    assert [set(column.tolist()) for column in drawn.T] == [{0}, {0, 1, 2}, set(range(7))]


def test_window_by_loops_with_its_wrap():
    images = torch.rand(4, 2, 5, 6, generator=torch.Generator().manual_seed(2))
    top, left = torch.tensor([0, 1, 3, 4]), torch.tensor([0, 2, 5, 1])
    part = window(images, top, left, 3, 4)
    for n in range(4):
        for y in range(3):
            for x in range(4):
                expected = images[n, :, (top[n] + y) % 5, (left[n] + x) % 6]
                assert torch.equal(part[n, :, y, x], expected)
