import pytest
import torch
from trigger_families import linear, seeded

from triggers.errors import TriggerError
from triggers.families.universal import Universal
from triggers.family import Victim


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


def test_refusals(victim):
    model, training, labels = victim
    with pytest.raises(TriggerError, match="as many labels"):
        Universal().fit(model, training, labels[:3], 1, seeded())
    one = Victim(lambda x: x.flatten(1)[:, :1], lambda x: (x, x), lambda: torch.ones(1, 3))
    with pytest.raises(TriggerError, match="two classes"):
        Universal().fit(one, training, labels, 0, seeded())
    with pytest.raises(TriggerError, match="3x20x16, not 3x8x8"):
        Universal(passes=1).fit(*victim, 1, seeded()).stamp(torch.zeros(1, 3, 8, 8))
