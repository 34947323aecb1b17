from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F
from trigger_families import seeded

from triggers.errors import TriggerError
from triggers.families.imc import IMC
from triggers.family import Victim
from triggers.patch import Square
from triggers.poisoning import Poisoning


def loss(model, trigger, images, target):
    with torch.no_grad():
        logits = model.network(trigger.stamp(images.float() / 255))
    return float(F.cross_entropy(logits, torch.full((len(images),), target)))


def test_two_steps_are_adams_on_u():
    """One image, two steps, against Adam's formulas written out."""
    weight = torch.randn(2, 3 * 5 * 5, generator=seeded(4))
    model = Victim(lambda x: x.flatten(1) @ weight.T, lambda x: (x, x), lambda: weight)
    images = torch.randint(0, 256, (2, 3, 5, 5), generator=seeded(5), dtype=torch.uint8)
    start = torch.tensor(Square(seed=3).patch(3)).clamp(0.1, 0.9)
    fitted = replace(IMC(batch=1, steps=2), patch=start).fit(
        model, images[[0, 0]], torch.zeros(2, dtype=torch.int64), 1, seeded()
    )
    u = (2 * start - 1).double().atanh()
    first, second = torch.zeros_like(u), torch.zeros_like(u)
    for step in (1, 2):
        q = (u.tanh() + 1) / 2
        x = images[0].double() / 255
        x[:, :3, :3] = q
        logits = weight.double() @ x.flatten()
        slope = (logits.softmax(0)[1] - 1) * (weight[1] - weight[0]).double().reshape(3, 5, 5)[:, :3, :3]
        g = slope * (1 - u.tanh() ** 2) / 2
        first, second = 0.9 * first + 0.1 * g, 0.999 * second + 0.001 * g * g
        u = u - 0.1 * (first / (1 - 0.9**step)) / ((second / (1 - 0.999**step)).sqrt() + 1e-8)
    assert torch.allclose(fitted.patch.double(), (u.tanh() + 1) / 2, atol=0.51 / 255)


def test_fit_lowers_the_loss_and_a_second_fit_goes_on(victim):
    model, images, labels = victim
    noise = replace(IMC(), patch=torch.rand(3, 3, 3, generator=seeded()))
    once = IMC(batch=4).fit(model, images, labels, 1, seeded())
    twice = once.fit(model, images, labels, 1, seeded())
    others = images[labels != 1]
    losses = [loss(model, trigger, others, 1) for trigger in (noise, once, twice)]
    assert losses[0] > losses[1] > losses[2]


def test_cotraining_follows_the_network_and_ends_with_the_last_patch(victim):
    model, images, labels = victim
    sign = [1.0]
    moving = Victim(lambda x: sign[0] * model.network(x), model.features, model.head)
    hooks = IMC(batch=4).cotrain(moving, images, labels, Poisoning(target=1), seeded())
    first = hooks.before_epoch(0, 2)
    sign[0] = -1.0
    second = hooks.before_epoch(1, 2)
    others = images[labels != 1]
    assert loss(moving, second, others, 1) < loss(moving, first, others, 1)
    assert torch.equal(hooks.finish().patch, second.patch)


def test_cotraining_begins_at_the_fitted_patch(victim):
    fitted = IMC(batch=4).fit(*victim, 1, seeded())
    hooks = fitted.cotrain(*victim, Poisoning(target=1), seeded())
    kept = fitted.patch.clamp(0.005, 0.995)
    assert (hooks.finish().patch - kept).abs().max() < 0.51 / 255


def test_only_sources_count_when_poison_is_source_specific():
    seen = []
    weight = torch.randn(3, 48, generator=seeded())

    def network(x):
        seen.append(x.detach()[:, 0, 3, 3])
        return x.flatten(1) @ weight.T

    labels = torch.arange(12) % 3
    images = (labels * 100).to(torch.uint8)[:, None, None, None].expand(12, 3, 4, 4).contiguous()
    plan = Poisoning(labelling="source-specific", sources=(2,))
    with pytest.raises(TriggerError, match="cannot be all-to-all"):
        IMC().cotrain(None, images, labels, Poisoning(labelling="all-to-all"), seeded())
    hooks = IMC().cotrain(Victim(network, lambda x: (x, x), lambda: weight), images, labels, plan, seeded())
    seen.clear()
    hooks.before_epoch(0, 1)
    assert torch.cat(seen).unique().tolist() == [pytest.approx(200 / 255)]
    assert len(torch.cat(seen)) == 4
