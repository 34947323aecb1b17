import pytest
import torch
from torch import nn

from wiper_cli.perturbations import Recovered, square
from wiper_cli.purifiers.machinery.pool import (
    OPEN_FAMILIES,
    Perturbations,
    assemble,
    screen_windows,
    variants,
)

SHAPE = (1, 16, 16)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def find(target=2, success=1.0, top=12):
    canvas, mask = square(SHAPE, top, 12, 3, "white")
    return Recovered("square", target, {"canvas": canvas, "mask": mask}, {"success": success})


class Corner(nn.Module):
    """Class 2 sees the brightness of 3x3 pixels near a corner, the others that of the rest."""

    def forward(self, x):
        corner = 30 * (x[:, 0, 12:15, 12:15].mean((1, 2)) - 0.45)
        rest = x[:, 0, :8].mean((1, 2))
        return torch.stack([rest, 1 - rest, corner, torch.zeros_like(rest)], 1)


def perturbations(**changes):
    given = {"members": 4, "suspects": [1, 2], "recovered": [], "recovered_share": 0.5, **changes}
    groups = assemble(SHAPE, generator=generator(), **given)
    return Perturbations(groups, torch.device("cpu"), generator())


def test_half_aims_at_the_suspects():
    groups = perturbations(members=8).groups
    assert [group.pool.family for group in groups] == list(OPEN_FAMILIES)
    assert all(group.targets.tolist() == [-1, -1, -1, -1, 1, 1, 1, 2] for group in groups)
    assert sum(group.share for group in groups) == pytest.approx(1)


@pytest.mark.parametrize(
    ("suspects", "targets"),
    [([0, 1, 2], [-1, -1, 0, 0, 0, 1, 0, 0, 0, 2]), ([7], [-1, -1, 7, 7]), ([], [-1, -1, -1, -1])],
)
def test_every_suspect_has_a_member_and_the_first_has_most(suspects, targets):
    assert perturbations(suspects=suspects).groups[0].targets.tolist() == targets


def test_finds_share_by_their_success():
    groups = perturbations(recovered=[find(), find(3, 0.25)], recovered_share=0.6).groups
    assert sum(group.share for group in groups[:-2]) == pytest.approx(0.4)
    assert [group.share for group in groups[-2:]] == pytest.approx([0.48, 0.12])
    assert groups[-1].targets.tolist() == [3, 3, 3, 3]


def test_finds_that_an_earlier_round_left_get_half_of_their_share():
    left = [
        Recovered(one.family, one.target, one.parameters, {**one.facts, "remnant": True})
        for one in (find(4, 0.2), find(5, 0.1))
    ]
    groups = perturbations(recovered=[find(), left[0], find(3, 0.25), left[1]], recovered_share=0.6).groups
    assert [group.share for group in groups[-4:]] == pytest.approx([0.24, 0.2, 0.06, 0.1])


def test_stamping_keeps_the_order_of_the_images():
    """Each image comes back in its own row, changed by a member of the group whose target is reported."""
    pool = perturbations(suspects=[7], members=2)
    levels = torch.linspace(0.2, 0.8, 50)
    images = levels.reshape(50, 1, 1, 1).expand(50, *SHAPE)
    found, targets = pool.stamp(images)
    assert found.shape == images.shape
    torch.testing.assert_close(found.detach().flatten(1).median(1).values, levels, atol=0.11, rtol=0)
    assert set(targets.tolist()) == {-1, 7}
    assert (found != images).flatten(1).any(1).float().mean() > 0.7


def test_strengthening_finds_the_way_to_the_target():
    pool = perturbations(suspects=[2])
    images, labels = torch.rand(200, *SHAPE, generator=generator(1)) * 0.3, torch.zeros(200, dtype=torch.long)

    def reached():
        with torch.no_grad():
            z, targets = pool.stamp(images)
            return Corner()(z).softmax(1)[targets == 2, 2].mean()

    before = reached()
    for _ in range(25):
        z, targets = pool.stamp(images)
        pool.strengthen(Corner()(z), labels, targets)
    assert reached() > before + 0.1


def test_variants_begin_with_the_find():
    pool = variants(find(), 9, generator())
    assert len(pool) == 9
    assert torch.equal(pool.state["mask"][0], find().parameters["mask"])
    assert len({tuple(mask.flatten().tolist()) for mask in pool.state["mask"]}) >= 5


def test_varying_prefers_what_still_works():
    pool = perturbations(recovered=[find(top=10)], members=8)
    images, labels = torch.rand(16, *SHAPE, generator=generator(1)) * 0.3, torch.zeros(16, dtype=torch.long)

    def success():
        member = torch.arange(8).repeat_interleave(16)
        z = pool.groups[-1].pool.stamp(images.repeat(8, 1, 1, 1), member)
        return Corner()(z).softmax(1)[:, 2].mean()

    before = success()
    pool.vary(Corner(), images, labels)
    assert len(pool.groups[-1].pool) == 8
    assert success() > before


def test_screening_finds_the_window_and_the_class():
    images = torch.rand(32, *SHAPE, generator=generator(1)) * 0.3
    found = screen_windows(Corner(), images, [2, 3], 1, generator())
    assert [item.target for item in found] == [2, 3]
    assert found[0].facts["loss"] < 0.5 * found[1].facts["loss"]
    assert found[0].parameters["mask"][0, 12:15, 12:15].any()
