import pytest
import torch

from wiper_cli.salience import METRICS
from wiper_cli.salience.bs import Momentum, benign_salience
from wiper_cli.salience.settings import GradientMagnitude, MomentumSalience, Shapley


@pytest.mark.parametrize(
    ("name", "settings"),
    [("bs", None), ("integrated-gradients", None), ("shapley", Shapley(baseline="zero", permutations=50))],
)
def test_signed_metrics_put_a_harmful_unit_under_an_idle_one(make_head, name, settings):
    features, _, _, weight = make_head(images=200, spread=0.3)
    features[:, 4] = 0
    labels = (features @ weight.T).argmax(1)
    features[:, 2] = torch.arange(200) % 2 * 3.0  # a unit that speaks for class 0 in half of the images
    weight[:, 2] = torch.tensor([3.0, 0, 0, 0])
    found = METRICS[name](features, features @ weight.T, labels, weight, settings)
    assert float(found[2]) == float(found.min())
    assert float(found[2]) < float(found[4])


def test_momentum_is_the_loop_over_batches(make_head):
    features, logits, labels, weight = head = make_head()
    momentum = Momentum(0.7)
    for rows in torch.arange(60).split(25):
        expected = momentum.update(benign_salience(features[rows], logits[rows], labels[rows], weight))
    assert torch.equal(METRICS["mbs"](*head, MomentumSalience(eta=0.7, batch=25)), expected)
    assert torch.equal(METRICS["mbs"](*head, MomentumSalience(batch=60)), METRICS["bs"](*head))


def test_refusals(make_head):
    features, logits, labels, weight = make_head()
    metric = METRICS["bs"]
    with pytest.raises(ValueError, match=r"features \[N,D\]"):
        metric(features, logits, labels, weight.T)
    with pytest.raises(ValueError, match=r"features \[N,D\]"):
        metric(features[:0], logits[:0], labels[:0], weight)
    with pytest.raises(ValueError, match=r"0\.\.3"):
        metric(features, logits, labels - 1, weight)
    with pytest.raises(ValueError, match="does not take"):
        metric(features, logits, labels, weight, GradientMagnitude())
    with pytest.raises(ValueError, match="does not take"):
        METRICS["shapley"](features, logits, labels, weight, GradientMagnitude())
