import pytest
import torch
from torch.nn import functional as F

from wiper_cli.purifiers.contract import Task
from wiper_cli.purifiers.methods.tsbd import TSBD
from wiper_cli.purifiers.methods.tsbd import method as tsbd

CHANGES = [
    torch.tensor([[[[1.0, 5.0]]], [[[0.5, 0.1]]]]),  # channels with sums 6 and 0.6
    torch.tensor([[[[3.0]], [[2.0]], [[2.5]], [[0.5]]]]),  # one channel with sum 8
]


def test_ranking_and_reinitialisation_by_hand():
    """Two of three channels, half of their weights: (5) of the first layer's first, (3, 2.5) of the second's."""
    first, second = tsbd.kept(CHANGES, 2 / 3, 0.5)
    assert (first.flatten(1).tolist(), second.flatten().tolist()) == ([[1, 0], [1, 1]], [0, 1, 0, 1])


def test_one_channel_is_the_one_of_most_change_over_all_layers():
    first, second = tsbd.kept(CHANGES, 1 / 3, 1.0)
    assert (float(first.min()), float(second.max())) == (1, 0)


def test_gradient_is_mixed_from_here_and_uphill():
    """L(w) = sum w^4 / 4, g = w^3: (1 - a) g(w) + a g(w + r g / |g|)."""
    w = torch.tensor([1.0, -2.0, 0.5], requires_grad=True)
    here = w.pow(4).sum() / 4
    (gradient,) = torch.autograd.grad(here, w, retain_graph=True)
    there = tsbd.uphill({"w": w}, [gradient], 0.05)["w"]
    (mixed,) = torch.autograd.grad(0.3 * here + 0.7 * there.pow(4).sum() / 4, w)
    v = w.detach().double()
    g = v**3
    torch.testing.assert_close(mixed.double(), 0.3 * g + 0.7 * (v + 0.05 * g / g.norm()) ** 3)


def test_a_step_is_that_of_autograd_by_hand(classifier, clean):
    """One step with batch norm frozen, from nothing reinitialised, against gradients taken one after the other."""
    images, labels = clean.fit.images[:60], clean.fit.labels[:60]
    network = classifier.copy().network
    weights = [p.requires_grad_(True) for p in network.parameters()]
    x = images.float() / 255
    found = [w.detach().clone() for w in weights]
    g = torch.autograd.grad(F.cross_entropy(network(x), labels), weights)
    norm = torch.stack([v.square().sum() for v in g]).sum().sqrt()
    with torch.no_grad():
        for w, v in zip(weights, g, strict=True):
            w += 0.05 * v / norm
    h = torch.autograd.grad(F.cross_entropy(network(x), labels), weights)
    small = type(clean)(type(clean.fit)(images, labels), clean.select, clean.report)
    settings = TSBD(
        epochs=1, batch=60, lr=0.1, weight_decay=0, schedule="constant", flip=False, crop=0.0,
        share=1e-9, unlearn_epochs=1, min_steps=1,
    )  # fmt: skip
    result = settings.run(Task(classifier, small))
    names = dict(network.network.named_parameters())
    for name, old, here, there in zip(names, found, g, h, strict=True):
        new = torch.frombuffer(bytearray(result.edit.tensors[name].data), dtype=torch.float32).reshape(
            old.shape
        )
        torch.testing.assert_close(new, old - 0.1 * (0.3 * here + 0.7 * there), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("share", [0.0, 0.3])
def test_weakens_the_backdoor(removes, share):
    assert "Unlearning took" in removes(TSBD(share=share, flip=False, crop=0.0), 0.7, 0.93).notes[0]
