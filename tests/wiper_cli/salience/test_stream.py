import pytest
import torch

from wiper_cli.salience.am import activation_magnitude, weighted_activation_magnitude
from wiper_cli.salience.bs import benign_salience
from wiper_cli.salience.stream import SaliencePass, ranks, stability


@pytest.fixture
def data():
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(201, 12, generator=generator).relu()
    weight = torch.randn(5, 12, generator=generator)
    return features, features @ weight.T, torch.randint(5, (201,), generator=generator), weight


def run(data, batch, eta=0.9):
    features, logits, labels, weight = data
    total = SaliencePass(weight, eta)
    for rows in torch.arange(len(labels)).split(batch):
        total.add(features[rows], logits[rows], labels[rows])
    return total.result()


@pytest.mark.parametrize("batch", [1, 7, 64, 201])
def test_one_pass_equals_the_functions_whatever_the_batch(data, batch):
    features, logits, labels, weight = data
    found = run(data, batch)
    expected = benign_salience(features, logits, labels, weight)
    torch.testing.assert_close(found.bs, expected, rtol=1e-10, atol=1e-13)
    torch.testing.assert_close(found.am, activation_magnitude(*data))
    torch.testing.assert_close(found.weighted_am, weighted_activation_magnitude(*data))
    assert (found.stability, found.images) == (run(data, 50).stability, 201)
    assert found.correct == int((logits.argmax(1) == labels).sum())


def test_stability_compares_even_with_odd_images(data):
    features, logits, labels, weight = data
    halves = [benign_salience(features[h::2], logits[h::2], labels[h::2], weight) for h in (0, 1)]
    assert run(data, 32).stability["bs"] == stability(*halves)


def test_momentum_takes_one_step_a_batch(data):
    features, logits, labels, weight = data
    first = benign_salience(features[:101], logits[:101], labels[:101], weight)
    second = benign_salience(features[101:], logits[101:], labels[101:], weight)
    torch.testing.assert_close(run(data, 101).mbs, 0.9 * first + 0.1 * second)
    torch.testing.assert_close(run(data, 101, eta=0.0).mbs, second)


def test_too_few_images(data):
    with pytest.raises(ValueError, match="two images"):
        run(tuple(part[:1] if len(part) == 201 else part for part in data), 1)


def test_ranks_share_ties():
    assert ranks(torch.tensor([3.0, 1.0, 3.0, 0.0])).tolist() == [2.5, 1.0, 2.5, 0.0]


def test_stability_of_known_orders():
    a = torch.tensor([1.0, 2.0, 3.0, 4.0])
    same, opposite = stability(a, a * 10), stability(a, -a)
    assert (same.rank_correlation, same.lowest_half_overlap) == pytest.approx((1.0, 1.0))
    assert (opposite.rank_correlation, opposite.lowest_half_overlap) == pytest.approx((-1.0, 0.0))
    assert stability(a, torch.ones(4)).rank_correlation == 0.0
