from dataclasses import dataclass

import pytest
import torch

from triggers.dataset import poisoned
from triggers.family import Trigger
from triggers.patch import Square
from triggers.poisoning import Poisoning


@dataclass(frozen=True)
class Told(Trigger):
    """Writes what it is: 200 + seed for the trigger, 100 + seed for a cover, or a drawn level."""

    name = "told"
    seed: int = 0
    random: bool = False

    def stamp(self, images, generator=None, level=200):
        if self.random:
            return torch.rand(len(images), 1, 1, 1, generator=generator).expand_as(images).clone()
        return torch.full_like(images, (level + self.seed) / 255)

    def cover(self, images, generator=None):
        return self.stamp(images, generator, 100)


@pytest.fixture
def data():
    draw = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (200, 3, 16, 16), generator=draw, dtype=torch.uint8)
    return images, torch.arange(200) % 4


def poison(images, labels, trigger, plan):
    chosen = plan.choose(labels, 4)
    return poisoned(images, trigger, plan, chosen), chosen


def test_poisoned_images_alone_carry_the_trigger(data):
    images, before = data[0], data[0].clone()
    new, chosen = poison(*data, Square(), Poisoning(0.1, target=2, seed=1))
    hit = chosen.poisoned
    patch = (torch.tensor(Square().patch(3)) * 255).round().to(torch.uint8)
    assert (new[hit][:, :, :3, :3] == patch).all()
    assert torch.equal(new[hit][:, :, 3:], images[hit][:, :, 3:])
    assert torch.equal(new[~hit], images[~hit])
    assert torch.equal(images, before)
    assert torch.equal(poison(*data, Square(), Poisoning(0.0, 0))[0], images)


def test_float_images_are_quantised(data):
    images, labels = data
    levels = 255 * poison(images.float() / 300, labels, Square(pattern="white"), Poisoning(0.1, 0))[0]
    hit = Poisoning(0.1, 0).choose(labels, 4).poisoned
    assert torch.allclose(levels[hit], levels[hit].round(), atol=1e-4)


@pytest.mark.parametrize(
    "plan",
    [
        Poisoning(0.1, 2, cover=0.2),
        Poisoning(0.1, 2, policy="clean-label", cover=0.2),
        Poisoning(0.1, target=1, labelling="multi-target", targets=2, cover=0.06),
    ],
)
def test_poison_and_covers_carry_their_own_stamp_each_of_its_variant(data, plan):
    new, chosen = poison(*data, Told(), plan)
    hit, covered, variant = chosen.poisoned, chosen.covered, chosen.variant
    assert (new[hit].flatten(1) == 200 + variant[hit, None]).all()
    assert (new[covered].flatten(1) == 100 + variant[covered, None]).all()
    rest = ~(hit | covered)
    assert torch.equal(new[rest], data[0][rest])


@pytest.mark.parametrize("fresh", [False, True])
def test_fresh_draws_anew_every_epoch_and_others_do_not(data, fresh):
    images, labels = data
    plan = Poisoning(0.1, fresh=fresh, cover=0.1)
    chosen = plan.choose(labels, 4)
    first, again, later = (poisoned(images, Told(random=True), plan, chosen, epoch) for epoch in (0, 0, 3))
    assert torch.equal(first, again)
    assert torch.equal(first, later) is not fresh
    rest = ~(chosen.poisoned | chosen.covered)
    assert torch.equal(later[rest], images[rest])


def test_batches_change_nothing(data):
    images, labels = data
    plan = Poisoning(0.2, cover=0.2)
    chosen = plan.choose(labels, 4)
    first, *others = (poisoned(images, Told(random=True), plan, chosen, batch=n) for n in (1, 7, 1024))
    assert all(torch.equal(first, other) for other in others)
