import torch

from formats import apply_edit
from wiper_cli.purifiers.contract import Task
from wiper_cli.purifiers.machinery.masks import MaskStudent, clamp, prune
from wiper_cli.purifiers.machinery.training import Batches, switch
from wiper_cli.purifiers.methods.rnp import RNP
from wiper_cli.purifiers.methods.rnp.method import unlearn


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
        epochs=2, lr=0.3, batch=100, flip=False, crop=0, unlearn_lr=1e-3, momentum=0.0, budget=1.0,
        ablation="zero",
    )  # fmt: skip
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


def test_live_unlearning_normalises_by_the_batch_and_learns_statistics(classifier, clean):
    settings = RNP(unlearn_epochs=1, unlearn_lr=0.5, clip=0.0, weight_decay=0.0, momentum=0.0)
    after = unlearn(settings, classifier, batches(clean, size=300), live=True)[0].network.network
    network = classifier.copy().network.network
    network.requires_grad_(True).norm.train()
    x, y = clean.fit.images.float() / 255, clean.fit.labels
    torch.nn.functional.cross_entropy(network((x - 0.5) / 0.25), y).backward()
    for name, weight in network.named_parameters():
        expected = (weight + 0.5 * weight.grad).detach()
        torch.testing.assert_close(after.get_parameter(name).detach(), expected, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(after.norm.running_mean, network.norm.running_mean)
    assert not torch.equal(after.norm.running_mean, classifier.model.network.norm.running_mean)
    assert not after.norm.training


def test_live_recovery_prunes_the_network_as_it_was_found(classifier, clean):
    """The masks again under batch statistics; the edit leaves the statistics of the file alone."""
    settings = RNP(epochs=2, lr=0.3, batch=100, flip=False, crop=0, unlearn_lr=1e-2, momentum=0.0, budget=0.9)
    result = settings.run(Task(classifier, clean, live=True))
    shuffled = batches(clean)
    student = MaskStudent(unlearn(settings, classifier, shuffled, live=True)[0], clean.fit, "mean", live=True)
    for _ in range(2):
        for x, y in shuffled:
            switch(student.norms, True)
            loss = torch.nn.functional.cross_entropy(student.logits(x), y)
            with torch.no_grad():
                for mask, slope in zip(student.masks, torch.autograd.grad(loss, student.masks), strict=True):
                    mask -= 0.3 * slope
            clamp(student.masks)
    whole = MaskStudent(classifier, clean.fit, "mean")
    expected = whole.pruned(prune(whole, student.masks, clean.select, 0.9)[0])
    assert expected.tensors
    assert result.edit == expected
    assert "norm.running_mean" not in result.edit.tensors


def test_live_unlearning_stops_after_a_whole_epoch(classifier, clean):
    """Frozen, one batch at the bound is enough; live, as published, its epoch is finished."""
    settings = RNP(unlearn_lr=1e-3, unlearn_until=0.5)
    parts = batches(clean, size=23)
    frozen, whole = (unlearn(settings, classifier, parts, live=live)[1] for live in (False, True))
    assert len(parts) == 13
    assert int(frozen.split()[2]) % 13 != 0
    assert int(whole.split()[2]) % 13 == 0


def test_removes_the_backdoor(removes):
    removes(RNP(lr=0.2, budget=0.1, flip=False, crop=0.0), 0.6, 0.9)
