import pytest
import torch

from triggers.families.logit import LogitAttack
from triggers.family import Victim
from triggers.poisoning import Poisoning
from triggers.store import dump, load


@pytest.fixture
def fit(victim):
    """LogitAttack with the given parameters, fitted."""
    return lambda **given: LogitAttack(**given).fit(*victim, 1, torch.Generator())


def test_anchor_by_loops(victim, fit, images):
    model, training, labels = victim
    logits = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    poisoned = torch.tensor([True, False, False, False, False])
    covered = torch.tensor([False, False, True, False, False])
    hooks = fit(anchor=0.7).cotrain(model, training, labels, Poisoning(), torch.Generator())
    clean = model.network(images)
    squares = [sum(float(logits[n, c] - clean[n, c]) ** 2 for c in range(4)) for n in (1, 3, 4)]
    assert float(hooks.loss(images, logits, labels[:5], poisoned, covered)) == pytest.approx(
        0.7 * sum(squares) / 3
    )


def test_gradient_reaches_clean_logits_only(victim, fit, images):
    model, training, labels = victim
    logits = torch.zeros(5, 4, requires_grad=True)
    poisoned = torch.tensor([True, False, False, False, True])
    hooks = fit().cotrain(model, training, labels, Poisoning(), torch.Generator())
    hooks.loss(images, logits, labels[:5], poisoned, torch.zeros(5, dtype=torch.bool)).backward()
    assert torch.allclose(logits.grad[1:4], -2 * model.network(images)[1:4] / 3)
    assert (logits.grad[[0, 4]] == 0).all()


def test_a_batch_of_poison_alone_has_no_anchor(victim, fit, images):
    model, training, labels = victim
    hooks = fit().cotrain(model, training, labels, Poisoning(), torch.Generator())
    everything = torch.ones(5, dtype=torch.bool)
    assert hooks.loss(images, torch.ones(5, 4), labels[:5], everything, ~everything) == 0


def test_the_reference_is_the_fitted_model_not_the_trained_one(victim, fit, images):
    model, training, labels = victim
    other = Victim(lambda x: model.network(x) + 1, model.features, model.head)
    hooks = fit().cotrain(other, training, labels, Poisoning(), torch.Generator())
    nothing = torch.zeros(5, dtype=torch.bool)
    assert float(hooks.loss(images, model.network(images), labels[:5], nothing, nothing)) == 0
    assert float(hooks.loss(images, other.network(images), labels[:5], nothing, nothing)) == pytest.approx(4)


def test_the_clean_model_stays_out_of_the_file(fit, tmp_path, images):
    path = tmp_path / "t.safetensors"
    path.write_bytes(dump(fit(seed=3)))
    loaded, _ = load(path)
    assert loaded == LogitAttack(seed=3)
