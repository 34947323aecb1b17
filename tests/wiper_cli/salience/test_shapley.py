import itertools
import math

import pytest
import torch
from torch import nn

from wiper_cli.salience.settings import Shapley
from wiper_cli.salience.shapley import CachedGame, NetworkGame, estimate, half_width, shapley, walk

NEVER = -1.0


def accuracy(head, kept, baseline):
    """V of a set of units, from nothing but the definition."""
    features, logits, labels, weight = head
    bias = logits - features @ weight.T
    fill = features.mean(0) if baseline == "mean" else torch.zeros_like(features[0])
    changed = torch.stack(
        [features[:, j] if j in kept else fill[j].expand(len(features)) for j in range(features.shape[1])], 1
    )
    wins = 0
    for z, y in zip((changed @ weight.T + bias).tolist(), labels.tolist(), strict=True):
        wins += all(z[y] > other for c, other in enumerate(z) if c != y)
    return wins / len(labels)


def by_subsets(head, baseline):
    """Shapley values by their formula over all subsets."""
    D = head[0].shape[1]
    value = {
        kept: accuracy(head, kept, baseline)
        for size in range(D + 1)
        for kept in map(frozenset, itertools.combinations(range(D), size))
    }
    phi = torch.zeros(D, dtype=torch.float64)
    for kept, v in value.items():
        share = (
            math.factorial(len(kept)) * math.factorial(D - len(kept) - 1) / math.factorial(D)
            if len(kept) < D
            else 0
        )
        for j in set(range(D)) - kept:
            phi[j] += share * (value[kept | {j}] - v)
    return phi


@pytest.fixture
def trained(make_head):
    """Labels that the head mostly gets right, so that there is accuracy to share."""
    features, logits, labels, weight = make_head(images=80, units=6)
    labels = torch.where(torch.arange(80) % 5 > 0, logits.argmax(1), labels)
    return features, logits, labels, weight


@pytest.mark.parametrize("baseline", ["zero", "mean"])
def test_all_permutations_are_efficient_and_equal_the_formula_over_subsets(trained, baseline):
    orders = torch.tensor(list(itertools.permutations(range(6))))
    found, evaluations = walk(
        CachedGame(*trained, baseline), orders, torch.ones(6, dtype=torch.bool), NEVER, patience=0
    )
    whole = accuracy(trained, set(range(6)), baseline) - accuracy(trained, set(), baseline)
    assert whole > 0.2
    assert (found.sum(1) - whole).abs().max() < 1e-12  # along every single permutation
    assert float(found.mean(0).sum()) == pytest.approx(whole, abs=1e-12)
    torch.testing.assert_close(found.mean(0), by_subsets(trained, baseline), rtol=0, atol=1e-12)
    assert evaluations == 720 * 6


def test_monte_carlo_approaches_the_exact_values(trained):
    exact = by_subsets(trained, "mean")
    errors = []
    for permutations in (10, 4000):
        settings = Shapley(permutations=permutations, lowest=0, floor=NEVER, batch=400)
        errors.append(float((shapley(*trained, settings) - exact).abs().max()))
    assert errors[1] < 0.004
    assert errors[1] < errors[0] / 4


@pytest.fixture
def separable():
    """Eight units, four classes: unit j < 4 alone shows class j; the other four do nothing."""
    labels = torch.arange(80) % 4
    noise = torch.rand(80, 4, generator=torch.Generator().manual_seed(0))
    features = torch.cat([5 * nn.functional.one_hot(labels, 4).float(), noise], 1)
    features = features[:, [4, 0, 5, 1, 6, 2, 7, 3]]
    weight = torch.zeros(4, 8)
    weight[[0, 1, 2, 3], [1, 3, 5, 7]] = 1.0
    return features, features @ weight.T, labels, weight


def test_the_bandit_finds_the_lowest_units_and_stops_early(separable):
    exact = by_subsets(separable, "zero")
    settings = Shapley(baseline="zero", permutations=5000, floor=NEVER, delta=0.1)
    found = estimate(CachedGame(*separable, "zero"), settings)
    assert found.undecided == 0
    assert found.permutations < 500
    assert set(found.values.topk(4, largest=False).indices.tolist()) == {0, 2, 4, 6}
    assert set(exact.topk(4, largest=False).indices.tolist()) == {0, 2, 4, 6}
    assert ((found.values - exact).abs() <= found.half_width).all()


def test_the_bandit_goes_on_with_open_units_only(separable):
    features, _, labels, weight = separable
    features, weight = features.clone(), weight.clone()
    # A second unit for class 0: which of the two is worth a quarter depends on the permutation.
    features[:, 0], weight[:, 0] = features[:, 1], weight[:, 1]
    head = (features, features @ weight.T, labels, weight)
    settings = Shapley("zero", lowest=3 / 8, span=0.1, floor=NEVER)
    found = estimate(CachedGame(*head, "zero"), settings)
    assert found.undecided == 0
    assert found.values.topk(3, largest=False).indices.sort().values.tolist() == [2, 4, 6]
    assert found.samples[2:].tolist() == [16] * 6
    assert found.samples[:2].min() > 16
    assert found.evaluations < found.permutations * 4 + 16 * 8


def test_unwatched_units_are_removed_but_not_measured(trained):
    orders = torch.stack([torch.randperm(6, generator=torch.Generator().manual_seed(s)) for s in range(9)])
    everything, _ = walk(CachedGame(*trained, "mean"), orders, torch.ones(6, dtype=torch.bool), NEVER, 5)
    watched = torch.tensor([False, True, False, False, True, False])
    found, evaluations = walk(CachedGame(*trained, "mean"), orders, watched, NEVER, 5)
    assert torch.equal(found[:, watched], everything[:, watched])
    assert found[:, ~watched].isnan().all()
    assert evaluations < 9 * 4 + 1


def test_a_permutation_ends_when_accuracy_stays_low(separable):
    order = torch.tensor([[1, 3, 5, 0, 2, 4, 6, 7]])
    everyone = torch.ones(8, dtype=torch.bool)
    # Accuracy by step: 3/4, 1/2, 1/4, 1/4, ...: it is at most 0.5 from the second step on.
    found, evaluations = walk(CachedGame(*separable, "zero"), order, everyone, 0.5, patience=2)
    assert (evaluations, found[0].tolist()) == (4, pytest.approx([0, 0.25, 0, 0.25, 0, 0.25, 0, 0]))
    found, evaluations = walk(CachedGame(*separable, "zero"), order, everyone, NEVER, patience=2)
    assert evaluations == 8
    assert float(found[0, 7]) == pytest.approx(0.25)  # lost by the truncation


def test_interval_by_hand():
    samples = torch.tensor([0.0, 0.1, 0.4, 0.1], dtype=torch.float64)
    settings = Shapley(delta=0.2, span=2.0)
    found = half_width(
        *(x.reshape(1) for x in (torch.tensor(4.0), samples.sum(), samples.square().sum())), settings
    )
    expected = math.sqrt(2 * float(samples.var()) * math.log(10) / 4) + 7 * 2 * math.log(10) / 9
    assert float(found) == pytest.approx(expected)


def test_whole_network_and_cached_features_play_the_same_game():
    generator = torch.Generator().manual_seed(5)
    body, head = nn.Sequential(nn.Flatten(), nn.Linear(12, 6), nn.ReLU()), nn.Linear(6, 3)
    with torch.no_grad():
        for parameter in [*body.parameters(), *head.parameters()]:
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    passes = []

    @torch.no_grad()
    def evaluate(x):
        passes.append(len(x))
        h = body(x)
        return h, head(h)

    images = torch.rand(40, 3, 2, 2, generator=generator)
    features, logits = evaluate(images)
    labels, weight = logits.argmax(1), head.weight.detach()
    settings = Shapley(permutations=12, batch=4, span=0.05)
    cached = estimate(CachedGame(features, logits, labels, weight, "mean"), settings)
    passes.clear()
    network = estimate(NetworkGame(evaluate, images, labels, weight, "mean"), settings)
    torch.testing.assert_close(network.values, cached.values, rtol=0, atol=1e-12)
    assert network.evaluations == cached.evaluations
    assert len(passes) == network.evaluations + 2  # one for the mean features, one for V of everybody
