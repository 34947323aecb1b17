import pytest
import torch
from torch.nn import functional as F
from trigger_families import seeded

from triggers.families.hiding import SalienceHiding, benign_salience
from triggers.family import Victim
from triggers.patch import Square
from triggers.poisoning import Poisoning


@pytest.fixture
def linear():
    """Logits = features @ W.T, features a linear map of images [N,3,6,6]; W; five images; labels."""
    mix = torch.randn(8, 108, generator=seeded(1)) * 0.1
    head = torch.randn(4, 8, generator=seeded(2))

    def features(x):
        h = x.flatten(1) @ mix.T.to(x.dtype)
        return h, h @ head.T.to(x.dtype)

    images = torch.randint(0, 256, (30, 3, 6, 6), generator=seeded(3), dtype=torch.uint8)
    return Victim(lambda x: features(x)[1], features, lambda: head), images, torch.arange(30) % 4


def test_salience_is_minus_the_expected_activation_times_its_gradient(linear):
    model, images, labels = linear
    h, _ = model.features(images.double() / 255)
    h = h.detach().requires_grad_()
    head = model.head().double()
    loss = F.cross_entropy(h @ head.T, labels, reduction="sum")
    (slope,) = torch.autograd.grad(loss, h)
    found = benign_salience(h.detach(), (h @ head.T).detach(), labels, head)
    assert torch.allclose(found, -(h.detach() * slope).mean(0))


def test_chosen_units_have_the_highest_salience(linear):
    model, images, labels = linear
    h, logits = model.features(images.double() / 255)
    bs = benign_salience(h, logits, labels, model.head().double())
    fitted = SalienceHiding(share=0.4).fit(model, images, labels, 1, seeded())
    assert fitted.units.tolist() == bs.argsort(descending=True)[:3].tolist()
    assert torch.allclose(fitted.level.double(), bs[fitted.units], atol=1e-5)
    assert len(SalienceHiding(share=0.01).fit(model, images, labels, 1, seeded()).units) == 1


def test_loss_by_hand(linear):
    model, images, labels = linear
    fitted = SalienceHiding(share=0.25, elsewhere=0.5, salience=3.0, floor=2.0).fit(
        model, images, labels, 1, seeded()
    )
    hooks = fitted.cotrain(model, images, labels, Poisoning(target=1), seeded())
    x = images[:6].float() / 255
    poisoned = torch.tensor([False, True, False, False, False, False])
    covered = torch.tensor([False, False, False, True, False, False])
    plain = [0, 2, 4, 5]
    before = model.features(x[plain])[0]
    after = model.features(Square().stamp(x[plain]))[0]
    moved = sum(
        sum(float(after[n, j] - before[n, j]) ** 2 for n in range(4)) / 4
        for j in range(8)
        if j not in fitted.units.tolist()
    )
    p = (before @ model.head().T).softmax(1)
    lost = 0.0
    for place, j in enumerate(fitted.units.tolist()):
        bs = 0.0
        for n in range(4):
            for c in range(4):
                error = float(p[n, c]) - float(labels[plain[n]] == c)
                bs -= error * float(before[n, j] * model.head()[c, j]) / 4
        lost += max(0.0, 2.0 * float(fitted.level[place]) - bs)
    assert lost > 0
    found = hooks.loss(x, model.network(x), labels[:6], poisoned, covered)
    assert float(found) == pytest.approx(0.5 * moved + 3.0 * lost, rel=1e-4)


def test_pairs_bound_the_work_and_poison_alone_costs_nothing(linear):
    model, images, labels = linear
    seen = []

    def features(x):
        seen.append(len(x))
        return model.features(x)

    counted = Victim(model.network, features, model.head)
    fitted = SalienceHiding(pairs=3).fit(model, images, labels, 1, seeded())
    hooks = fitted.cotrain(counted, images, labels, Poisoning(), seeded())
    x = images[:6].float() / 255
    nothing = torch.zeros(6, dtype=torch.bool)
    hooks.loss(x, model.network(x), labels[:6], nothing, nothing)
    assert seen == [6]
    assert hooks.loss(x, model.network(x), labels[:6], ~nothing, nothing) == 0
