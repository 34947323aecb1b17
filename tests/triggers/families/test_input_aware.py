import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from triggers.errors import TriggerError
from triggers.families.input_aware import InputAware, masks, sameness
from triggers.family import Victim
from triggers.networks import UNet

TARGET = 1


@pytest.fixture(scope="module")
def images():
    draw = torch.Generator().manual_seed(0)
    coarse = torch.rand(120, 3, 4, 4, generator=draw)
    smooth = F.interpolate(coarse, size=16, mode="bilinear", align_corners=False)
    return (smooth * 255).round().to(torch.uint8)


@pytest.fixture(scope="module")
def labels():
    return torch.arange(120) % 3


def network(weights):
    kernel, head = weights

    def features(x):
        h = F.avg_pool2d(F.conv2d(x.float(), kernel, padding=1).relu(), 4).flatten(1)
        return h, h @ head.T

    return Victim(lambda x: features(x)[1], features, lambda: head.detach())


@pytest.fixture
def weights():
    draw = torch.Generator().manual_seed(8)
    return 0.4 * torch.randn(6, 3, 3, 3, generator=draw), 0.1 * torch.randn(3, 96, generator=draw)


def fit(victim, images, labels, seed=0, **settings):
    settings = {"mask_steps": 40, "steps": 60, "width": 4, "rate": 1e-2, **settings}
    return InputAware(**settings).fit(victim, images, labels, TARGET, torch.Generator().manual_seed(seed))


def test_stamp_is_the_formula(weights, images, labels):
    trigger = fit(network(weights), images, labels, steps=3)
    x = images[:4].double() / 255
    z = torch.sigmoid(UNet(3, 1, 4)(trigger.mask.double(), x - 0.5)).numpy()
    m = np.tanh(20 * z - 10) / 2 + 0.5
    g = 1 / (1 + np.exp(-UNet(3, 3, 4)(trigger.pattern.double(), x - 0.5).numpy()))
    expected = x.numpy() + (g - x.numpy()) * m
    assert np.abs(trigger.stamp(x).numpy() - expected).max() < 1e-10
    flipped = trigger.crossed(x, x.flip((2, 3))).clamp(0, 1)
    assert torch.allclose(trigger.cover(x), flipped, atol=1e-12)


def test_mask_becomes_sparse_and_depends_on_the_image(weights, images, labels):
    trigger = fit(network(weights), images, labels, mask_steps=150, steps=1)
    m = masks(trigger.mask, images.float() / 255, 4)
    assert 0 < m.mean() < 0.2
    assert m.flatten(1).std(0).max() > 0.05


def test_diversity_by_hand():
    draw = np.random.default_rng(2)
    x1, x2 = draw.random((2, 3, 3, 4, 5))
    y1, y2 = draw.random((2, 3, 1, 4, 5))
    ratio = [
        np.sqrt(((a - b) ** 2).mean()) / (np.sqrt(((c - d) ** 2).mean()) + 1e-7)
        for a, b, c, d in zip(x1, x2, y1, y2, strict=True)
    ]
    found = sameness(*(torch.from_numpy(a) for a in (x1, x2, y1, y2)))
    assert abs(float(found) - np.mean(ratio)) < 1e-9


def test_diversity_of_equal_outputs_keeps_a_finite_slope():
    y = torch.full((2, 1, 4, 4), 0.5, requires_grad=True)
    sameness(torch.zeros(2, 3, 4, 4), torch.ones(2, 3, 4, 4), y, y * 1.0).backward()
    assert y.grad.isfinite().all()


def begin(images, labels, weights, **settings):
    settings = {"mask_steps": 10, "width": 4, "rate": 1e-2, **settings}
    trigger = InputAware(**settings)
    return trigger.cotrain(
        network(weights), images, labels, trigger.poisoning, torch.Generator().manual_seed(0)
    )


def test_online_stamping_changes_poisoned_and_covered_only(images, labels, weights):
    joint = begin(images, labels, weights)
    assert joint.online
    x = images[:10].float() / 255
    poisoned, covered = torch.arange(10) < 3, (torch.arange(10) >= 3) & (torch.arange(10) < 5)
    before = x.clone()
    out = joint.stamp_batch(x, poisoned, covered, torch.Generator().manual_seed(1))
    assert torch.equal(x, before)
    assert torch.equal(out[5:], x[5:])
    assert (out[:5] != x[:5]).flatten(1).any(1).all()
    own = joint.finish().stamp(x)
    assert (out[:3] - own[:3]).abs().max() < 0.51 / 255
    assert (out[3:5] - own[3:5]).abs().max() > 1 / 255
    loss = joint.loss(out, torch.zeros(10, 3), labels[:10], poisoned, covered)
    assert loss > 0
    (gradient,) = torch.autograd.grad(loss + out.sum(), joint.weights)
    assert gradient.abs().max() > 0


def test_batches_without_triggers_pass(images, labels, weights):
    joint = begin(images, labels, weights)
    x = images[:4].float() / 255
    none = torch.zeros(4, dtype=torch.bool)
    start = joint.weights.detach().clone()
    assert joint.stamp_batch(x, none, none, torch.Generator()) is x
    assert joint.loss(x, x, labels[:4], none, none) == 0
    joint.after_step()
    assert torch.equal(joint.weights, start)


def test_a_step_lowers_the_loss_of_the_generator_alone(images, labels, weights):
    joint = begin(images, labels, weights, rate=1e-4)
    first = joint.finish()
    x = images[:20].float() / 255
    poisoned, covered = torch.arange(20) < 12, torch.arange(20) >= 12

    def loss():
        seen = joint.stamp_batch(x, poisoned, covered, torch.Generator().manual_seed(1))
        logits = network(weights).network(seen)
        return F.cross_entropy(logits, labels[:20]) + joint.loss(seen, logits, labels, poisoned, covered)

    before = loss()
    before.backward()
    joint.after_step()
    assert loss() < before
    last = joint.finish()
    assert not torch.equal(first.pattern, last.pattern)
    assert torch.equal(first.mask, last.mask)


def test_refusals(weights, images, labels):
    victim = network(weights)
    trigger = fit(victim, images, labels, mask_steps=1, steps=1)
    for words, act in (
        ("two at least, not 1", lambda: fit(victim, images[:1], labels[:1])),
        ("at least 8x8", lambda: fit(victim, images[..., :6], labels)),
        ("at least 8x8", lambda: trigger.stamp(torch.zeros(1, 3, 16, 4))),
        (
            "fitted with others",
            lambda: dataclasses.replace(trigger, width=5).stamp(torch.zeros(1, 3, 16, 16)),
        ),
    ):
        with pytest.raises(TriggerError, match=words):
            act()
