import math

import pytest
import torch
from torch.nn import functional as F

from wiper_cli.images.splits import Part
from wiper_cli.purifiers.machinery.feature_mask import answers, feature_mask, objective

#: Features 0 and 1 say the class; 2 leans to class 0 whatever the image; 3 is read by nobody.
WEIGHT = torch.tensor([[4.0, -4.0, 3.0, 0.0], [-4.0, 4.0, -3.0, 0.0]])
BIAS = torch.zeros(2)


def separable():
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(2, (400,), generator=generator)
    features = 0.2 * torch.rand(400, 4, generator=generator)
    features[:, :2] = F.one_hot(labels, 2)
    features[:, 2] += 0.5
    return Part(features, labels)


def test_objective_by_hand():
    mask, h = torch.tensor([1.0, 0.5, 0.0, 1.0]), torch.tensor([[1.0, 0.0, 1.0, 2.0]])
    kept = torch.log1p(torch.exp(torch.tensor(-8.0)))
    rest = torch.log1p(torch.exp(torch.tensor(-6.0)))
    loss = objective(mask, h, torch.tensor([0]), WEIGHT, BIAS, 0.8)
    torch.testing.assert_close(loss, kept - rest + 0.8 * 0.625)


def test_benign_features_are_kept_and_the_bias_to_one_class_is_not():
    mask = feature_mask(separable(), WEIGHT, BIAS, 200, 0.05, torch.Generator().manual_seed(0))
    assert mask[:2].min() > 0.9
    assert mask[2] < 0.3
    assert answers(separable().images * (1 - mask), WEIGHT, BIAS).tolist() == [400, 0]


def test_weight_on_its_size_empties_what_nobody_reads():
    mask = feature_mask(separable(), WEIGHT, BIAS, 200, 0.05, torch.Generator().manual_seed(0), 0.75)
    assert mask[3] < 0.1
    assert mask[1] > 0.9
    # Feature 0 is only needed for half of the images: 8 sigmoid(-8 m) / 2 = 0.75 / 4.
    assert float(mask[0]) == pytest.approx(math.log(1 / 0.046875 - 1) / 8, abs=0.03)
