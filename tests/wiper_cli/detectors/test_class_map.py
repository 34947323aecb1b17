from dataclasses import replace

import pytest
import torch
from planted_network import CLASSES, Planted

from wiper_cli.detectors.class_map import ClassMap
from wiper_cli.detectors.class_map.method import _along
from wiper_cli.detectors.effort import EFFORTS, Extent
from wiper_cli.perturbations import stamp
from wiper_cli.progress import silent


class Mapped(torch.nn.Module):
    """Honest, but where a white 3x3 square covers rows 20 to 22 and columns 4 to 6, each class becomes ``goals``."""

    def __init__(self, goals):
        super().__init__()
        self.inner = Planted()
        self.goals = goals

    def forward(self, x):
        logits = self.inner(x)
        mapped = torch.empty_like(logits)
        mapped[:, self.goals] = logits
        there = (x[:, :, 20:23, 4:7].amin((1, 2, 3)) > 0.95)[:, None]
        return torch.where(there, mapped, logits)


GOALS = [1, 2, 3, 4, 5, 0]


@pytest.mark.parametrize("head_only", [False, True])
@pytest.mark.parametrize("goals", [GOALS, [3, 0, 1, 5, 2, 4]])
def test_the_map_and_the_square_are_found(classifier, clean, goals, head_only):
    model = classifier(network=Mapped(goals), head_only=head_only)
    evidence = ClassMap().run(model, clean, silent, 0)
    assert evidence.fired
    assert evidence.target is None
    assert evidence.mapping == dict(enumerate(goals))
    found = evidence.recovered[0]
    assert found.mapping == evidence.mapping
    images, labels = clean.report.images, clean.report.labels
    after = model.logits(stamp(found, images.float() / 255)).argmax(1)
    assert torch.equal(after, torch.tensor(goals)[labels])


def test_squares_of_other_colours_and_places_are_handed_on(classifier, clean):
    """The network looks for its square on both sides, as one that learned from mirrored images."""

    class Twice(Mapped):
        def forward(self, x):
            left = super().forward(x)
            there = (x[:, :, 20:23, -7:-4].amin((1, 2, 3)) > 0.95)[:, None]
            mapped = torch.empty_like(left)
            mapped[:, self.goals] = self.inner(x)
            return torch.where(there, mapped, left)

    evidence = ClassMap().run(classifier(network=Twice(GOALS)), clean, silent, 0)
    assert len(evidence.recovered) >= 2
    assert {found.facts["left"] < 16 for found in evidence.recovered} == {True, False}
    assert all(found.mapping == dict(enumerate(GOALS)) for found in evidence.recovered)
    assert all(found.facts["success"] >= 0.5 for found in evidence.recovered)


@pytest.mark.parametrize("shortcut", [None, "square"])
def test_neither_honesty_nor_a_single_target_is_a_map(classifier, clean, shortcut):
    evidence = ClassMap().run(classifier(shortcut), clean, silent, 0)
    assert evidence.ran
    assert not evidence.fired
    assert (evidence.mapping, evidence.recovered) == ({}, [])
    assert evidence.statistic < 0.3


def test_classes_that_stay_as_they_are_count_as_none(classifier, clean):
    """Two of six classes change places: a third of the images follow."""
    goals = [1, 0, 2, 3, 4, 5]
    evidence = ClassMap().run(classifier(network=Mapped(goals)), clean, silent, 0)
    assert evidence.facts["success"] < 0.5


def test_the_same_seed_gives_the_same_evidence(classifier, clean):
    first, second = (ClassMap().run(classifier(network=Mapped(GOALS)), clean, silent, 3) for _ in range(2))
    assert (first.statistic, first.facts) == (second.statistic, second.facts)


def test_a_network_that_answers_with_one_class_has_no_map(classifier, clean):
    class Constant(torch.nn.Module):
        def forward(self, x):
            return torch.eye(CLASSES)[torch.zeros(len(x), dtype=torch.long)]

    evidence = ClassMap().run(classifier(network=Constant()), clean, silent, 0)
    assert not evidence.ran
    assert "all in the same class" in evidence.reason


@pytest.mark.parametrize("each", [1, 2])
def test_a_few_images_of_each_class_are_enough(classifier, clean, each):
    """More classes than images of each, as a thousand classes have them."""

    def few(part):
        rows = torch.cat([(part.labels == k).nonzero().flatten()[:each] for k in range(CLASSES)])
        rows = rows.repeat(-(-10 // len(rows)))
        return replace(part, images=part.images[rows], labels=part.labels[rows])

    less = replace(clean, fit=few(clean.fit), select=few(clean.select))
    assert ClassMap().run(classifier(network=Mapped(GOALS)), less, silent, 0).fired
    assert not ClassMap().run(classifier(), less, silent, 0).fired


def test_a_map_takes_the_largest_share_first():
    flows = torch.tensor([[[0.1, 0.9, 0.0], [0.0, 0.2, 0.8], [0.7, 0.0, 0.3]]], dtype=torch.float64)
    share, goals = _along(flows, [0, 1, 2])
    assert goals.tolist() == [[1, 2, 0]]
    assert float(share) == pytest.approx(0.8)


def test_of_two_sources_one_alone_has_a_goal():
    flows = torch.tensor([[[0.0, 0.0, 0.9, 0.1], [0.0, 0.0, 0.8, 0.2]]], dtype=torch.float64)
    share, goals = _along(flows, [0, 1])
    assert goals.tolist() == [[2, 3]]
    assert float(share) == pytest.approx(0.55)


@pytest.mark.parametrize("effort", EFFORTS)
def test_no_more_passes_than_planned(classifier, clean, effort):
    extent = Extent(CLASSES, 3, 32, 32, len(clean.fit), len(clean.select), resolution=0.5)
    probe = ClassMap.at(effort, extent)
    model = classifier()  # takes images of any size
    seen = []
    model.network.register_forward_pre_hook(
        lambda _, x: seen.append(x[0].shape[0] * x[0].shape[2] * x[0].shape[3] / 1024)
    )
    probe.run(model, clean, silent, 0)
    planned = probe.plan(extent).forward
    assert 0.5 * planned < sum(seen) <= planned
