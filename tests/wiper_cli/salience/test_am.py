import torch

from wiper_cli.salience.am import activation_magnitude, weighted_activation_magnitude

FEATURES = torch.tensor([[1.0, -2.0, 0.0], [3.0, 2.0, 0.0]])
WEIGHT = torch.tensor([[1.0, -1.0, 5.0], [-2.0, 0.5, 5.0]])
LOGITS, LABELS = FEATURES @ WEIGHT.T, torch.tensor([0, 1])


def test_mean_absolute_activation():
    found = activation_magnitude(FEATURES, LOGITS, LABELS, WEIGHT)
    assert (found.dtype, found.tolist()) == (torch.float64, [2.0, 2.0, 0.0])


def test_weighted_sums_over_the_classes():
    products = (WEIGHT[None] * FEATURES[:, None]).abs()  # [N,K,D]
    assert (
        weighted_activation_magnitude(FEATURES, LOGITS, LABELS, WEIGHT).tolist()
        == products.sum(1).mean(0).tolist()
    )
