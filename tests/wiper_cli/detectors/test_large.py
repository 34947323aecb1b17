"""What searches leave out where images are large: no find, no more work than planned, and nothing for smaller ones."""

from dataclasses import fields, replace

import pytest
import torch

from wiper_cli.detectors import DETECTORS
from wiper_cli.detectors.additive_inversion import AdditiveInversion
from wiper_cli.detectors.effort import LEAST_SIDE, Extent
from wiper_cli.detectors.mask_inversion import MaskInversion
from wiper_cli.detectors.patch_inversion import PatchInversion
from wiper_cli.detectors.shape_probe import ShapeProbe
from wiper_cli.detectors.square_probe import SquareProbe
from wiper_cli.images.splits import Clean
from wiper_cli.perturbations import stamp
from wiper_cli.progress import silent

FINDS = [
    (AdditiveInversion, "pattern"), (MaskInversion, "dots"), (PatchInversion, "square"), (SquareProbe, "square"),
    (ShapeProbe, "square"),
]  # fmt: skip


@pytest.fixture
def counted(classifier, clean):
    """``counted(detector, shortcut)``: the evidence, and the forward and backward passes that it took."""

    def run(detector, shortcut):
        model = classifier(shortcut)
        forward, backward = [], []

        def asked(_, args, logits):
            forward.append(len(args[0]))
            if logits.requires_grad and torch.is_grad_enabled():
                backward.append(len(args[0]))

        model.network.register_forward_hook(asked)
        return detector.run(model, clean, silent, 0), sum(forward), sum(backward)

    return run


def lean(kind, effort, clean):
    """As for large images, and the plan for small ones."""
    extent = Extent(6, 3, 32, 32, len(clean.fit), len(clean.select))
    found = replace(kind.at(effort, extent), **kind.large[effort])
    return found, found.plan(extent)


@pytest.mark.parametrize("effort", ["quick", "normal"])
@pytest.mark.parametrize(("kind", "shortcut"), FINDS)
def test_the_target_is_still_named_with_no_more_work_than_planned(counted, clean, kind, shortcut, effort):
    detector, plan = lean(kind, effort, clean)
    evidence, forward, backward = counted(detector, shortcut)
    assert (evidence.fired, evidence.target) == (True, 2)
    assert 0.5 * plan.forward < forward <= plan.forward
    assert 0.5 * plan.backward <= backward <= plan.backward


@pytest.mark.parametrize("effort", ["quick", "normal"])
@pytest.mark.parametrize("kind", [kind for kind, _ in FINDS])
def test_an_honest_network_is_not_accused_and_costs_less(counted, clean, kind, effort):
    detector, plan = lean(kind, effort, clean)
    whole = replace(detector, lean=False)
    evidence, forward, backward = counted(detector, None)
    other, more, again = counted(whole, None)
    assert not evidence.fired
    assert not other.fired
    assert forward + backward < more + again
    assert forward <= plan.forward


@pytest.mark.parametrize("shortcut", [None, "square"])
def test_squares_and_shapes_tell_the_same_where_images_are_not_reduced(counted, clean, shortcut):
    """What is left out there cannot change the verdict, nor a find."""
    for kind in (SquareProbe, ShapeProbe):
        detector, _ = lean(kind, "normal", clean)
        evidence, other = (counted(one, shortcut)[0] for one in (detector, replace(detector, lean=False)))
        assert (evidence.fired, evidence.target) == (other.fired, other.target)
        if shortcut or kind is SquareProbe:
            assert evidence.statistic == other.statistic
            assert evidence.facts == other.facts
        else:
            assert evidence.facts["innocent"] == []
            assert other.statistic <= evidence.statistic <= detector.threshold


class Halved(torch.nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return self.inner(torch.nn.functional.adaptive_avg_pool2d(x, 32))


@pytest.mark.parametrize("kind", [ShapeProbe, SquareProbe, PatchInversion])
def test_what_reduced_images_chose_works_on_whole_ones(classifier, clean, kind):
    double = [
        part.__class__(part.images.repeat_interleave(2, 2).repeat_interleave(2, 3), part.labels)
        for part in (clean.fit, clean.select, clean.report)
    ]
    model = classifier(network=Halved(classifier("square").network.network))
    extent = Extent(6, 3, 64, 64, 60, 60, resolution=0.5)
    detector = replace(kind.at("quick", extent), **kind.large["quick"])
    pixels = []
    model.network.register_forward_pre_hook(lambda _, x: pixels.append(x[0].shape[0] * x[0].shape[2] ** 2))
    evidence = detector.run(model, Clean(*double), silent, 0)
    assert (evidence.fired, evidence.target) == (True, 2)
    assert sum(pixels) / 64**2 <= detector.plan(extent).forward
    found = evidence.recovered[0]
    others = double[1].images[model.answers(double[1].images) != 2]
    after = model.logits(stamp(found, others.float() / 255)).argmax(1)
    assert float((after == 2).float().mean()) == pytest.approx(found.facts["success"])


@pytest.mark.parametrize("name", DETECTORS)
def test_only_large_images_have_less_and_never_in_a_thorough_search(name):
    kind = DETECTORS[name]
    small, large = (Extent(1000, 3, 400, side, 100, 100) for side in (LEAST_SIDE - 1, LEAST_SIDE))
    assert "thorough" not in kind.large
    assert kind.at("thorough", large) == kind.at("thorough", small) == kind()
    for effort, less in kind.large.items():
        one, two = kind.at(effort, small), kind.at(effort, large)
        assert {
            item.name for item in fields(one) if getattr(one, item.name) != getattr(two, item.name)
        } == set(less)
        shape = Extent(1000, 3, 224, 224, 100, 100, head=True, resolution=0.5)
        work = [replace(each, resolution=0.5).plan(shape) for each in (one, two)]
        assert work[1].forward + work[1].backward < work[0].forward + work[0].backward
