import torch

from formats import apply_edit
from wiper_cli.classifier import Classifier
from wiper_cli.purifiers.contract import Task
from wiper_cli.purifiers.masks import MaskStudent, accuracy
from wiper_cli.purifiers.rnp import unlearn
from wiper_cli.purifiers.settings_field import RNP
from wiper_cli.purifiers.training import Batches


def batches(clean, seed=0, size=100):
    generator = torch.Generator().manual_seed(seed)
    return Batches(clean.fit.images, clean.fit.labels, size, torch.device("cpu"), generator)


def test_unlearning_stops_once_the_accuracy_is_gone(classifier, clean, rates):
    before = rates(classifier, clean)[0]
    unlearned, sentence = unlearn(RNP(unlearn_lr=1e-3, unlearn_until=0.2), classifier, batches(clean))
    logits = unlearned.logits(clean.fit.images)
    assert before > 0.9
    assert float((logits.argmax(1) == clean.fit.labels).float().mean()) < 0.4
    assert torch.isfinite(logits).all()
    assert "steps" in sentence
    assert rates(classifier, clean)[0] == before


def test_one_step_climbs_by_the_clipped_gradient(classifier, clean):
    """One epoch of one step: w + lr g min(1, clip / norm), weight decay off."""
    settings = RNP(unlearn_epochs=1, unlearn_lr=0.5, clip=0.3, weight_decay=0.0, momentum=0.0)
    after = unlearn(settings, classifier, batches(clean, size=300))[0]
    weights = {n: w.detach().clone().requires_grad_(True) for n, w in classifier.model.named().items()}
    x, y = clean.fit.images.float() / 255, clean.fit.labels
    logits = torch.func.functional_call(classifier.model.network, weights, ((x - 0.5) / 0.25,))
    loss = torch.nn.functional.cross_entropy(logits, y)
    gradients = torch.autograd.grad(loss, list(weights.values()))
    norm = torch.stack([g.square().sum() for g in gradients]).sum().sqrt()
    assert norm > 0.3
    named = after.model.named(after.network.network)
    for (name, weight), gradient in zip(weights.items(), gradients, strict=True):
        expected = (weight + 0.5 * gradient * 0.3 / norm).detach()
        torch.testing.assert_close(named[name], expected, rtol=1e-3, atol=1e-5)


def test_masks_come_from_the_unlearned_network_and_prune_the_found_one(classifier, clean):
    """The masks again, step by step, from the parts that other tests check."""
    settings = RNP(
        epochs=2,
        lr=0.3,
        batch=100,
        flip=False,
        crop=0,
        unlearn_lr=1e-3,
        momentum=0.0,
        budget=1.0,
        ablation="zero",
    )
    result = settings.run(Task(classifier, clean))
    shuffled = batches(clean)
    unlearned = unlearn(settings, classifier, shuffled)[0]
    student = MaskStudent(unlearned, clean.fit, "zero")
    for _ in range(2):
        for x, y in shuffled:
            loss = torch.nn.functional.cross_entropy(student.logits(x), y)
            with torch.no_grad():
                for mask, slope in zip(student.masks, torch.autograd.grad(loss, student.masks), strict=True):
                    mask.copy_((mask - 0.3 * slope).clamp(0, 1))
    largest = max(float(m.detach()[m < 1].max()) for m in student.masks if (m < 1).any())
    after = apply_edit(classifier.model, result.edit).named()
    before = classifier.model.named()
    for layer, mask in zip(student.layers, student.masks, strict=True):
        for name in layer.scaled:
            for channel, value in enumerate(mask.tolist()):
                kept = before[name][channel] if value > largest else torch.zeros_like(before[name][channel])
                assert torch.equal(after[name][channel].detach(), kept.detach())


def test_deterministic_and_within_the_budget(classifier, clean):
    settings = RNP(epochs=2, lr=0.1, batch=64, flip=False, unlearn_lr=1e-3, unlearn_until=0.2, budget=0.05)
    first, second = (settings.run(Task(classifier, clean)) for _ in range(2))
    assert first.edit == second.edit
    whole = MaskStudent(classifier, clean.fit, "zero")
    before = accuracy(whole, [torch.ones(12), torch.ones(24)], clean.select)
    purified = Classifier(apply_edit(classifier.model, first.edit), classifier.mean, classifier.std)
    right = (purified.logits(clean.select.images).argmax(1) == clean.select.labels).float().mean()
    assert float(right) >= before * 0.95 - 1e-6
