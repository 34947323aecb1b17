from dataclasses import replace

import pytest
import torch

from triggers.family import TriggerError, Victim
from triggers.universal import Universal, deepfool_step, search


def linear(weight, bias):
    """A classifier f(x) = W x + b on flattened images."""
    return lambda x: x.flatten(1).to(weight.dtype) @ weight.T + bias


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def classifier():
    weight = torch.randn(2, 3 * 4 * 5, generator=seeded(1), dtype=torch.float64)
    return weight, -0.5 * weight.sum(1)


@pytest.mark.parametrize("norm", ["sup", "euclidean"])
def test_step_on_two_linear_classes_is_the_closed_form(classifier, norm):
    weight, bias = classifier
    network = linear(weight, bias)
    x = torch.rand(40, 3, 4, 5, generator=seeded(), dtype=torch.float64)
    step, missed = deepfool_step(network, x, 1, torch.sign if norm == "sup" else lambda w: w, 0.0)
    gap = network(x)[:, 0] - network(x)[:, 1]
    w = weight[1] - weight[0]
    least = gap / w.abs().sum() if norm == "sup" else gap / w.norm()
    away = gap >= 0
    assert 0 < away.sum() < 40
    assert torch.equal(missed, away)
    size = step.flatten(1).abs().amax(1) if norm == "sup" else step.flatten(1).norm(dim=1)
    assert torch.allclose(size[away], least[away])
    assert (step[~away] == 0).all()
    after = network(x + step)
    assert torch.allclose(after[away, 0], after[away, 1])


def test_overshoot_crosses_the_border(classifier):
    network = linear(*classifier)
    x = torch.rand(40, 3, 4, 5, generator=seeded(), dtype=torch.float64)
    step, _ = deepfool_step(network, x, 1, torch.sign, 0.02)
    assert (network(x + step).argmax(1) == 1).all()


def test_step_aims_at_the_strongest_rival():
    weight = torch.eye(3, dtype=torch.float64)
    x = torch.tensor([[0.2, 0.9, 0.5]], dtype=torch.float64).reshape(1, 3, 1, 1)
    step, _ = deepfool_step(linear(weight, 0), x, 0, lambda w: w, 0.0)
    # Halfway between coordinates 0 and 1.
    assert torch.allclose(step.flatten(), torch.tensor([0.35, -0.35, 0.0], dtype=torch.float64))


def test_a_flat_network_offers_no_step():
    step, missed = deepfool_step(
        lambda x: x.flatten(1)[:, :2] * 0, torch.rand(3, 1, 2, 2), 0, torch.sign, 0.02
    )
    assert missed.all()
    assert (step == 0).all()


def test_one_batch_moves_by_the_mean_of_the_steps(classifier):
    network = linear(*classifier)
    images = torch.randint(0, 256, (16, 3, 4, 5), generator=seeded(3), dtype=torch.uint8)
    settings = {"direction": torch.sign, "fooling": 1.0, "batch": 16, "overshoot": 0.0, "passes": 1}
    found = search(network, images, 1, seeded(), project=lambda v: v, progress=lambda *told: None, **settings)
    step, missed = deepfool_step(network, images.float() / 255, 1, torch.sign, 0.0)
    assert torch.allclose(found, step[missed].mean(0).float(), atol=1e-6)


def test_fit_drives_a_linear_classifier_to_the_target_within_the_ball(classifier):
    weight, bias = classifier
    network = linear(weight.float(), bias.float())
    images = torch.randint(0, 256, (60, 3, 4, 5), generator=seeded(3), dtype=torch.uint8)
    labels = network(images.float() / 255).argmax(1)
    victim = Victim(network, lambda x: (x.flatten(1), network(x)), lambda: weight)
    fitted = Universal(bound=40.5 / 255).fit(victim, images, labels, 1, seeded())
    whole = fitted.perturbation * 255
    assert torch.allclose(whole, whole.round(), atol=1e-4)
    assert whole.abs().max() <= 40.001
    outside = images[labels != 1].float() / 255
    assert (network(fitted.stamp(outside)).argmax(1) == 1).float().mean() >= 0.8


def test_stamp_adds_and_clips(images):
    v = torch.linspace(-0.6, 0.6, 3 * 20 * 16).reshape(3, 20, 16)
    stamped = replace(Universal(), perturbation=v).stamp(images)
    assert torch.allclose(stamped.double(), (images.double() + v.double()).clip(0, 1), atol=1e-6)


def test_seed_decides(victim):
    model, images, labels = victim
    first, again, other = (
        Universal(passes=2, batch=5).fit(model, images, labels, 1, seeded(seed)).perturbation
        for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_refusals(victim, images):
    model, training, labels = victim
    with pytest.raises(TriggerError, match="not fitted"):
        Universal().stamp(images)
    with pytest.raises(TriggerError, match="give the model"):
        Universal().fit(None, training, labels, 1, seeded())
    with pytest.raises(TriggerError, match=r"outside the 4 classes"):
        Universal().fit(model, training, labels, 4, seeded())
    with pytest.raises(TriggerError, match="all are of that class"):
        Universal().fit(model, training, torch.ones_like(labels), 1, seeded())
    with pytest.raises(TriggerError, match="bound"):
        Universal(bound=0).fit(model, training, labels, 1, seeded())
    with pytest.raises(TriggerError, match="uint8"):
        Universal().fit(model, training.float(), labels, 1, seeded())
    with pytest.raises(TriggerError, match="as many labels"):
        Universal().fit(model, training, labels[:3], 1, seeded())
    one = Victim(lambda x: x.flatten(1)[:, :1], lambda x: (x, x), lambda: torch.ones(1, 3))
    with pytest.raises(TriggerError, match="two classes"):
        Universal().fit(one, training, labels, 0, seeded())
    fitted = Universal(passes=1).fit(model, training, labels, 1, seeded())
    with pytest.raises(TriggerError, match="3x20x16, not 3x8x8"):
        fitted.stamp(torch.zeros(1, 3, 8, 8))
