from dataclasses import dataclass, replace

import pytest
import torch

from triggers.badnet import BadNet
from triggers.family import Trigger, TriggerError
from triggers.planting import Planting, plant, stamped
from triggers.sinusoid import Sinusoid


@pytest.fixture
def data():
    draw = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (200, 3, 16, 16), generator=draw, dtype=torch.uint8)
    return images, torch.arange(200) % 4


def test_dirty_label(data):
    images, labels = data
    before = images.clone(), labels.clone()
    planted = plant(images, labels, BadNet(), Planting(0.1, target=2, seed=1), 4)
    assert planted.chosen.poisoned.sum() == 20
    assert not (labels[planted.chosen.poisoned] == 2).any()
    assert (planted.labels[planted.chosen.poisoned] == 2).all()
    assert torch.equal(planted.labels[~planted.chosen.poisoned], labels[~planted.chosen.poisoned])
    assert torch.equal(planted.images[~planted.chosen.poisoned], images[~planted.chosen.poisoned])
    patch = (torch.tensor(BadNet().patch(3)) * 255).round().to(torch.uint8)
    assert (planted.images[planted.chosen.poisoned][:, :, :3, :3] == patch).all()
    assert torch.equal(
        planted.images[planted.chosen.poisoned][:, :, 3:], images[planted.chosen.poisoned][:, :, 3:]
    )
    assert torch.equal(images, before[0])
    assert torch.equal(labels, before[1])


def test_clean_label_changes_no_label_and_only_the_target_class(data):
    images, labels = data
    planted = plant(images, labels, Sinusoid(), Planting(0.2, target=1, policy="clean-label"), 4)
    assert planted.chosen.poisoned.sum() == 40
    assert (labels[planted.chosen.poisoned] == 1).all()
    assert torch.equal(planted.labels, labels)


def test_seed_decides(data):
    _, labels = data
    first = Planting(0.1, 0, seed=4).choose(labels, 4).poisoned
    assert torch.equal(first, Planting(0.1, 0, seed=4).choose(labels, 4).poisoned)
    assert not torch.equal(first, Planting(0.1, 0, seed=5).choose(labels, 4).poisoned)


def test_nothing_to_poison(data):
    images, labels = data
    planted = plant(images, labels, BadNet(), Planting(0.0, 0), 4)
    assert not planted.chosen.poisoned.any()
    assert torch.equal(planted.images, images)


def test_float_images_are_quantised(data):
    images, labels = data
    planted = plant(images.float() / 255, labels, Sinusoid(), Planting(0.1, 0), 4)
    levels = planted.images * 255
    assert torch.allclose(levels, levels.round(), atol=1e-4)


def test_too_high_a_rate_is_refused_with_the_numbers(data):
    images, labels = data
    with pytest.raises(TriggerError, match=r"needs 60 images of class 1; there are 50 of 200"):
        plant(images, labels, BadNet(), Planting(0.3, 1, policy="clean-label"), 4)
    with pytest.raises(TriggerError, match=r"outside class 1; there are 150"):
        plant(images, labels, BadNet(), Planting(0.9, 1), 4)
    with pytest.raises(TriggerError, match="rate must lie"):
        Planting(1.2, 1).choose(labels, 4)


@dataclass(frozen=True)
class Told(Trigger):
    """Writes what it is: 200 + seed for the trigger, 100 + seed for a cover, or a drawn level."""

    name = "told"
    seed: int = 0
    random: bool = False

    def stamp(self, images, generator=None):
        if self.random:
            drawn = torch.rand(len(images), 1, 1, 1, generator=generator)
            return drawn.expand_as(images).clone()
        return torch.full_like(images, (200 + self.seed) / 255)

    def cover(self, images, generator=None):
        return (
            self.poison(images, generator)
            if self.random
            else torch.full_like(images, (100 + self.seed) / 255)
        )


def test_all_to_all_gives_the_next_class(data):
    images, labels = data
    planting = Planting(0.25, labelling="all-to-all")
    planted = plant(images, labels, BadNet(), planting, 4)
    hit = planted.chosen.poisoned
    assert hit.sum() == 50
    assert labels[hit].unique().tolist() == [0, 1, 2, 3]
    assert torch.equal(planted.labels[hit], (labels[hit] + 1) % 4)
    assert torch.equal(planted.labels[~hit], labels[~hit])
    goal, counts = planting.reached(labels, 4)
    assert torch.equal(goal, (labels + 1) % 4)
    assert counts.all()


def test_several_triggers_each_with_its_target(data):
    images, labels = data
    planting = Planting(0.1, target=1, labelling="multi-target", targets=2, cover=0.06)
    planted = plant(images, labels, Told(), planting, 4)
    hit, covered, variant = planted.chosen.poisoned, planted.chosen.covered, planted.chosen.variant
    assert [(hit & (variant == i)).sum().item() for i in (0, 1)] == [10, 10]
    assert [(covered & (variant == i)).sum().item() for i in (0, 1)] == [6, 6]
    assert torch.equal(planted.labels[hit], 1 + variant[hit])
    assert not torch.isin(labels[hit | covered], torch.tensor([1, 2])).any()
    assert torch.equal(planted.labels[covered], labels[covered])
    assert (planted.images[hit].flatten(1) == 200 + variant[hit, None]).all()
    assert (planted.images[covered].flatten(1) == 100 + variant[covered, None]).all()
    for number in (0, 1):
        goal, counts = planting.reached(labels, 4, number)
        assert (goal == 1 + number).all()
        assert torch.equal(counts, labels != 1 + number)


def test_source_specific(data):
    images, labels = data
    planting = Planting(0.1, 0, labelling="source-specific", sources=(1, 3), cover=0.1)
    planted = plant(images, labels, Told(), planting, 5)
    hit, covered = planted.chosen.poisoned, planted.chosen.covered
    assert labels[hit].unique().tolist() == [1, 3]
    assert (planted.labels[hit] == 0).all()
    assert labels[covered].unique().tolist() == [2]
    assert torch.equal(planted.labels[~hit], labels[~hit])
    goal, counts = planting.reached(labels, 5)
    assert (goal == 0).all()
    assert torch.equal(counts, (labels == 1) | (labels == 3))


@pytest.mark.parametrize(
    "planting", [Planting(0.1, 2, cover=0.2), Planting(0.1, 2, policy="clean-label", cover=0.2)]
)
def test_covers_keep_labels_and_are_never_of_the_target(data, planting):
    images, labels = data
    planted = plant(images, labels, Told(), planting, 4)
    hit, covered = planted.chosen.poisoned, planted.chosen.covered
    assert (hit.sum(), covered.sum()) == (20, 40)
    assert not (hit & covered).any()
    assert set(labels[covered].tolist()) == {0, 1, 3}
    assert torch.equal(planted.labels[covered], labels[covered])
    assert (planted.images[hit] == 200).all()
    assert (planted.images[covered] == 100).all()
    rest = ~(hit | covered)
    assert torch.equal(planted.images[rest], images[rest])


def test_all_to_one_success_leaves_out_the_target(data):
    _, labels = data
    goal, counts = Planting(target=3).reached(labels, 4)
    assert (goal == 3).all()
    assert torch.equal(counts, labels != 3)


def test_fresh_draws_anew_every_epoch_and_others_do_not(data):
    images, labels = data
    for fresh in (False, True):
        planting = Planting(0.1, fresh=fresh, cover=0.1)
        first, again, later = (
            plant(images, labels, Told(random=True), planting, 4, epoch) for epoch in (0, 0, 3)
        )
        assert torch.equal(first.images, again.images)
        assert torch.equal(first.images, later.images) is not fresh
        assert torch.equal(first.chosen.poisoned, later.chosen.poisoned)
        changed = first.chosen.poisoned | first.chosen.covered
        assert torch.equal(later.images[~changed], images[~changed])


def test_batches_change_nothing(data):
    images, labels = data
    planting = Planting(0.2, cover=0.2)
    chosen = planting.choose(labels, 4)
    results = [stamped(images, Told(random=True), planting, chosen, batch=batch) for batch in (1, 7, 1024)]
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"target": 4}, r"target 4 is outside the 4 classes 0\.\.3"),
        ({"target": -1}, "target -1 is outside"),
        ({"targets": 0}, "at least one target"),
        ({"target": 2, "targets": 3, "labelling": "multi-target"}, "target 4 is outside"),
        ({"targets": 2}, "belong together"),
        ({"labelling": "multi-target"}, "belong together"),
        ({"labelling": "source-specific"}, "needs source classes"),
        ({"labelling": "source-specific", "sources": (0, 1)}, "other than the target 0"),
        ({"labelling": "source-specific", "sources": (4,)}, r"classes 0\.\.3"),
        ({"sources": (1,)}, "belong to source-specific"),
        ({"policy": "clean-label", "labelling": "all-to-all"}, "cannot be all-to-all"),
        ({"rate": float("nan")}, "rate must lie"),
        ({"cover": -0.1}, "cover rate must lie"),
        ({"rate": 0.5, "cover": 0.4}, "only 50 of 200 can be used"),
        ({"rate": 0.5, "cover": 0.1, "labelling": "source-specific", "sources": (1, 2, 3)}, "only 0 of 200"),
        (
            {"rate": 0.5, "labelling": "source-specific", "sources": (1,)},
            "of the source classes 1; there are 50",
        ),
        ({"rate": 1.0, "labelling": "multi-target", "targets": 2}, "outside classes 0 to 1; there are 100"),
        ({"rate": 0.002}, "rate of 0.002 of 200 images is 0; it must be at least 1"),
        ({"cover": 0.001}, "cover rate of 0.001 of 200 images is 0"),
        ({"rate": 0.01, "labelling": "multi-target", "targets": 3}, "is 2; it must be at least 3"),
    ],
)
def test_refusals(data, wrong, words):
    _, labels = data
    with pytest.raises(TriggerError, match=words):
        replace(Planting(0.1), **wrong).choose(labels, 4)


@pytest.mark.parametrize(
    ("planting", "words"),
    [
        (Planting(), "5 % of the training set, dirty poison, all-to-one"),
        (
            Planting(0.003, policy="clean-label", cover=0.006, fresh=True, start="clean"),
            "0.3 % of the training set, clean-label poison, all-to-one, 0.6 % cover images, "
            "drawn anew every epoch, starting from a clean model",
        ),
    ],
)
def test_a_line_for_people(planting, words):
    assert str(planting) == words
