import pytest
import torch
from torch.nn import functional as F

from formats import Head
from wiper_cli.purifiers.machinery.layers import convolutions, ones, substituted
from wiper_cli.purifiers.machinery.pruning import channel_scores, keep, over_units, unit_scores
from wiper_cli.salience.stream import measure
from wiper_cli.verdict import Problem


def test_units_are_scored_by_the_metrics(classifier, clean):
    expected = measure(classifier, clean.fit)
    torch.testing.assert_close(unit_scores(classifier, clean.fit, "bs"), expected.bs)
    torch.testing.assert_close(unit_scores(classifier, clean.fit, "am"), expected.am)


def test_salience_of_a_channel_is_the_sum_over_its_weights(classifier, clean):
    """Eq. 2 over a channel: kernel and bias where batch norm is folded, the norm's weight and bias else."""
    layers = convolutions(classifier)
    assert [layer.norm is not None for layer in layers] == [True, False]
    network = classifier.copy().network.requires_grad_(True)
    F.cross_entropy(network(clean.fit.images / 255), clean.fit.labels).backward()
    inner = network.network

    def salience(*weights):
        return -sum((w * w.grad).reshape(len(w), -1).sum(1) for w in weights)

    found = channel_scores(classifier, layers, clean.fit, "bs")
    torch.testing.assert_close(
        found[0].float(), salience(inner.norm.weight, inner.norm.bias), rtol=1e-3, atol=1e-6
    )
    torch.testing.assert_close(
        found[1].float(), salience(inner.conv2.weight, inner.conv2.bias), rtol=1e-3, atol=1e-6
    )


def test_magnitude_of_a_channel(classifier, clean):
    layers, network = convolutions(classifier), classifier.network.network
    x = (clean.fit.images / 255 - 0.5) / 0.25
    expected = network.norm(network.conv1(x)).abs().mean((0, 2, 3)).double()
    found = channel_scores(classifier, layers, clean.fit, "am")[0]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_other_metrics_do_not_rank_channels(classifier, clean):
    with pytest.raises(Problem, match="--metric shapley ranks units of the head only"):
        channel_scores(classifier, convolutions(classifier), clean.fit, "shapley")


def test_the_lowest_share_goes():
    scores = torch.tensor([3.0, -1.0, 2.0, 0.0, 5.0])
    assert (keep(scores, 0.4).tolist(), keep(scores, 0).tolist()) == ([1, 0, 1, 0, 1], [1] * 5)
    assert keep(scores, 1).tolist() == [0] * 5


@pytest.mark.parametrize(
    ("layout", "shape"),
    [("out_in", (3, 4)), ("in_out", (4, 3)), ("conv", (3, 4, 1, 1)), ("conv", (3, 1, 2, 2))],
)
def test_a_mask_of_units_fits_every_layout(layout, shape):
    mask = torch.tensor([1.0, 0.0, 1.0, 0.0])
    masked = over_units(Head("w", None, 4, 3, layout), mask, torch.ones(shape)) * torch.ones(shape)
    matrix = masked.T if layout == "in_out" else masked.reshape(3, 4)
    assert torch.equal(matrix, mask.expand(3, 4))


def test_scoring_changes_nothing(classifier, clean):
    x = clean.report.images[:4] / 255
    before = classifier.logits(x)
    layers = convolutions(classifier)
    channel_scores(classifier, layers, clean.fit, "bs")
    assert torch.equal(classifier.logits(x), before)
    assert torch.equal(substituted(classifier, {}, x), before)
    assert [len(factor) for factor in ones(classifier, layers)] == [12, 24]
