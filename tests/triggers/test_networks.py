import numpy as np
import pytest
import torch
from scipy.signal import correlate

from triggers.errors import TriggerError
from triggers.family import quantise
from triggers.networks import Layers, UNet, one_by_one, rounded, with_channels


def flat(layers, seed=0):
    return layers.initial(torch.Generator().manual_seed(seed), torch.device("cpu")).double()


def convolved(x, kernel, bias, stride):
    """Cross-correlation with zeros around, written with scipy."""
    full = [
        sum(correlate(np.pad(x[i], 1), kernel[o, i], mode="valid") for i in range(len(x))) + bias[o]
        for o in range(len(kernel))
    ]
    return np.stack(full)[:, ::stride, ::stride]


@pytest.mark.parametrize(("height", "width"), [(8, 8), (9, 14), (15, 11)])
def test_unet_against_scipy(height, width):
    unet = UNet(2, 3, 2)
    weights = flat(unet.layers)
    weights += 0.1 * torch.randn(len(weights), generator=torch.Generator().manual_seed(5)).double()
    x = torch.rand(1, 2, height, width, generator=torch.Generator().manual_seed(1)).double()
    k = [(kernel.numpy(), bias.numpy()) for kernel, bias in unet.layers.unpack(weights)]

    def up(small, like):
        rows = np.arange(like.shape[1]) * small.shape[1] // like.shape[1]
        columns = np.arange(like.shape[2]) * small.shape[2] // like.shape[2]
        return np.concatenate([small[:, rows][:, :, columns], like])

    a = np.maximum(convolved(x[0].numpy(), *k[0], 1), 0)
    b = np.maximum(convolved(a, *k[1], 2), 0)
    c = np.maximum(convolved(b, *k[2], 2), 0)
    d = np.maximum(convolved(up(c, b), *k[3], 1), 0)
    e = np.maximum(convolved(up(d, a), *k[4], 1), 0)
    expected = convolved(e, *k[5], 1)
    assert np.abs(unet(weights, x)[0].numpy() - expected).max() < 1e-10


def test_initial_weights_keep_the_variance():
    layers = Layers(((64, 32, 3), (5, 64, 1)))
    (kernel, bias), (last, _) = layers.unpack(flat(layers))
    assert kernel.shape == (64, 32, 3, 3)
    assert last.shape == (5, 64, 1, 1)
    assert abs(float(kernel.std()) - (2 / 288) ** 0.5) < 0.02 * (2 / 288) ** 0.5
    assert not bias.any()
    assert torch.equal(flat(layers), flat(layers))
    assert not torch.equal(flat(layers), flat(layers, 1))


def test_weights_of_another_network_are_refused():
    with pytest.raises(TriggerError, match="fitted with others"):
        Layers(((2, 3, 3),)).unpack(torch.zeros(10))


def test_rounding_lets_gradients_pass():
    x = torch.tensor([0.1, 0.5, 0.9003], requires_grad=True)
    y = rounded(x)
    assert torch.allclose(y, quantise(x), atol=1e-7)
    (2 * y).sum().backward()
    assert torch.equal(x.grad, torch.full((3,), 2.0))


def test_channels_become_their_mean():
    x = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(2))
    assert with_channels(x, 3) is x
    assert torch.allclose(with_channels(x, 1), x.mean(1, keepdim=True))
    assert with_channels(x[:, :1], 3).shape == (2, 3, 4, 4)


def test_one_by_one_sees_one_image_in_double():
    seen = []
    x = torch.rand(3, 1, 2, 2)
    assert one_by_one(lambda one: seen.append((one.dtype, len(one))) or 2 * one, x).dtype == torch.float32
    assert seen == [(torch.float64, 1)] * 3
    assert one_by_one(lambda one: one, x[:0]).shape == (0, 1, 2, 2)
