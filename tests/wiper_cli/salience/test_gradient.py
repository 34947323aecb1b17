import pytest
import torch
from torch.nn import functional as F

from wiper_cli.salience.gradient import gradient_magnitude
from wiper_cli.salience.settings import GradientMagnitude


def by_autograd(features, logits, labels, weight, of):
    """Mean over the images of the norm of each image's own gradient, one backward pass an image."""
    bias = logits - features @ weight.T
    found = torch.zeros(weight.shape[1], dtype=torch.float64)
    for n in range(len(labels)):
        w, h = weight.clone().requires_grad_(), features[n].clone().requires_grad_()
        loss = F.cross_entropy((w @ h + bias[n])[None], labels[n : n + 1])
        by_weight, by_activation = torch.autograd.grad(loss, (w, h))
        found += by_weight.norm(dim=0) if of == "weights" else by_activation.abs()
    return found / len(labels)


@pytest.mark.parametrize("of", ["weights", "activation"])
def test_each_image_s_own_gradient(make_head, of):
    head = make_head()
    found = gradient_magnitude(*head, GradientMagnitude(of))
    torch.testing.assert_close(found, by_autograd(*head, of), rtol=1e-12, atol=1e-14)


def test_gradients_of_opposite_images_do_not_cancel():
    # One unit, two classes, logits equal: the two images' gradients are opposite, the mean gradient is zero.
    features, weight = torch.ones(2, 1), torch.ones(2, 1)
    head = (features, features @ weight.T, torch.tensor([0, 1]), weight)
    assert float(gradient_magnitude(*head, GradientMagnitude())) == torch.tensor(0.5).double().sqrt()
