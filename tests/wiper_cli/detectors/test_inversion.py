import pytest
import torch

from wiper_cli.detectors.additive_inversion import AdditiveInversion
from wiper_cli.detectors.common import first_order, flips, margins
from wiper_cli.detectors.effort import Extent
from wiper_cli.detectors.warp_inversion import WarpInversion
from wiper_cli.perturbations import FAMILIES
from wiper_cli.progress import silent

CASES = [(WarpInversion(), "warp", "warp"), (AdditiveInversion(), "pattern", "additive")]


@pytest.mark.parametrize(("detector", "shortcut", "family"), CASES)
def test_it_finds_the_transform_and_names_the_class(classifier, clean, detector, shortcut, family):
    model = classifier(shortcut)
    evidence = detector.run(model, clean, silent, 0)
    assert evidence.target == 2
    found = evidence.recovered[0]
    assert (found.family, found.target, found.facts["success"]) == (family, 2, evidence.statistic)
    state = {name: value.unsqueeze(0) for name, value in found.parameters.items()}
    again = flips(
        model, clean.select.images, model.answers(clean.select.images), FAMILIES[family](state), 0, 2
    )
    assert (again.share, again.count) == (evidence.statistic, 50)


def test_a_warp_does_not_find_a_square(classifier, clean):
    assert not WarpInversion().run(classifier("square"), clean, silent, 0).fired


def test_a_threshold_of_shorter_searches_is_not_said_to_be_that_of_longer_ones(classifier, clean):
    said = "set for the thorough search"
    short = {
        kind: kind.at("quick", Extent(6, 3, 32, 32, len(clean.fit), len(clean.select))).run(
            classifier(), clean, silent, 0
        )
        for kind in (WarpInversion, AdditiveInversion)
    }
    assert (short[WarpInversion].threshold, said in short[WarpInversion].threshold_origin) == (0.25, False)
    assert said in short[AdditiveInversion].threshold_origin


def test_it_can_be_aimed(classifier, clean):
    evidence = WarpInversion(targets=(4, 1)).run(classifier("warp"), clean, silent, 0)
    assert not evidence.fired
    assert evidence.suspects[0] in (1, 4)
    assert {found.target for found in evidence.recovered} <= {1, 4}


@pytest.mark.parametrize("most", [3, 2])
def test_screening_keeps_the_target_and_is_told(classifier, clean, most):
    evidence = WarpInversion(most_targets=most).run(classifier("warp"), clean, silent, 0)
    assert (evidence.facts["screened_from"], len(evidence.facts["screened"]), evidence.target) == (6, most, 2)


def test_the_linear_estimate_is_exact_for_a_linear_network(classifier, clean):
    """Logits linear in the pattern: the margin reached is the margin now plus bound * |slope|."""
    model, x = classifier("pattern"), clean.fit.images[:4]
    pool = FAMILIES["additive"]({"pattern": torch.zeros(1, 3, 32, 32), "bound": torch.tensor([0.02])})
    logits = model.logits(x)
    target = torch.full((4,), 2)
    reached = first_order(model, x, pool, [2])
    gradient = pool.state["pattern"].detach().clone().requires_grad_(True)
    value = margins(model.network(x.float() / 255 + gradient), target).mean()
    (slope,) = torch.autograd.grad(value, gradient)
    expected = margins(logits, target).mean() + 0.02 * slope.abs().sum()
    assert float(reached[0]) == pytest.approx(float(expected), rel=1e-4)
    assert float(reached[0]) > 5
    assert float(first_order(classifier(), x, pool, [2])[0]) < 0
