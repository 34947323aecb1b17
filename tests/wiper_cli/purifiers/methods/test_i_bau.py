import pytest
import torch
from torch.nn import functional as F

from formats import apply_edit
from wiper_cli.classifier import Classifier
from wiper_cli.purifiers.contract import Task
from wiper_cli.purifiers.machinery.training import Batches
from wiper_cli.purifiers.methods.i_bau import IBAU
from wiper_cli.purifiers.methods.i_bau.method import hypergradient, perturb


@pytest.fixture
def quadratic():
    """Convex in d, float64: inner(d, w) = d'Ad/2 - d'Bw + |w|^4/100; outer(d, w) = |d - c|^2/2 + d'Ew + |w|^2."""
    generator = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
    root, B, E, c, w = draw(4, 4), draw(4, 3), draw(4, 3), draw(4), draw(3)
    A = root @ root.T + torch.eye(4, dtype=torch.float64)

    def inner(d, weights):
        return d @ A @ d / 2 - d @ B @ weights[0] + weights[0].square().sum() ** 2 / 100

    def outer(d, weights):
        return (d - c).square().sum() / 2 + d @ E @ weights[0] + weights[0].square().sum()

    return inner, outer, A, B, w.requires_grad_(True)


def test_hypergradient_equals_the_closed_form(quadratic):
    inner, outer, A, B, w = quadratic
    star = torch.linalg.solve(A, B @ w)
    (expected,) = torch.autograd.grad(outer(star, [w]), w)
    loss, (found,) = hypergradient(inner, outer, star, [w], 4000, 0.05)
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(loss, outer(star, [w]).detach())


@pytest.mark.parametrize("steps", [1, 5, 20])
def test_hypergradient_equals_unrolled_descent_from_the_minimum(quadratic, steps):
    """At the minimum, k steps of gradient descent unrolled by autograd are k terms of the Neumann series."""
    inner, outer, A, B, w = quadratic
    star = torch.linalg.solve(A, B @ w).detach()
    d = star.clone().requires_grad_(True)
    for _ in range(steps):
        (slope,) = torch.autograd.grad(inner(d, [w]), d, create_graph=True)
        d = d - 0.05 * slope
    (expected,) = torch.autograd.grad(outer(d, [w]), w)
    _, (found,) = hypergradient(inner, outer, star, [w], steps, 0.05)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


def test_weights_that_one_objective_lacks(quadratic):
    inner, outer, *_, w = quadratic
    other = torch.ones(2, dtype=torch.float64, requires_grad=True)
    _, (first, second) = hypergradient(
        inner, lambda d, ws: outer(d, ws) + ws[1].sum(), torch.zeros(4, dtype=torch.float64), [w, other], 3,
        0.05,
    )  # fmt: skip
    assert first.abs().max() > 0
    assert torch.equal(second, torch.ones_like(second))


def test_the_perturbation_climbs_within_its_radius(clean):
    batches = Batches(clean.fit.images, clean.fit.labels, 50, torch.device("cpu"), torch.Generator())
    far = perturb(lambda x, y, d: -d.sum(), batches, torch.Size((1, 1, 8, 8)), 0.0)
    near = perturb(lambda x, y, d: -d.sum(), batches, torch.Size((1, 1, 8, 8)), 2.0)
    torch.testing.assert_close(far, torch.full((1, 1, 8, 8), 10.0 * len(batches)))
    assert float(near.norm()) == pytest.approx(2.0, rel=1e-5)
    assert not near.requires_grad


def test_unlearns_the_perturbation_of_the_given_network(classifier, clean):
    x, y = clean.fit.images / 255, clean.fit.labels
    batches = Batches(clean.fit.images, y, 60, torch.device("cpu"), torch.Generator().manual_seed(0))
    assert classifier.std == (0.25,)
    climb = lambda x, y, d: -F.cross_entropy(classifier.network(x + 0.25 * d), y)  # noqa: E731
    delta = perturb(climb, batches, torch.Size((1, 1, 8, 8)), 6.0)
    settings = IBAU(epochs=2, min_steps=20, lr=1e-3, radius=6.0, stamped=0.5, fixed_point=2)
    purified = settings.run(Task(classifier, clean))
    after = Classifier(apply_edit(classifier.model, purified.edit), classifier.mean, classifier.std)
    before, now = (F.cross_entropy(c.network(x + 0.25 * delta), y).item() for c in (classifier, after))
    assert now < 0.7 * before
    assert all(epoch.loss["perturbation_norm"] <= 6.001 for epoch in purified.history)


def test_weakens_the_backdoor(removes):
    removes(IBAU(lr=1e-3), 0.65, 0.93)
