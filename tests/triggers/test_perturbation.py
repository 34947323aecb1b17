import pytest
import torch
from trigger_families import linear, seeded

from triggers.perturbation import added, deepfool_step, search


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


def test_added_and_clipped(images):
    v = torch.linspace(-0.6, 0.6, 3 * 20 * 16).reshape(3, 20, 16)
    stamped = added("ia", images, v)
    assert torch.allclose(stamped.double(), (images.double() + v.double()).clip(0, 1), atol=1e-6)
