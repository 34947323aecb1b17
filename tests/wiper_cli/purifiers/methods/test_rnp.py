import pytest
import torch

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


@pytest.mark.parametrize(("live", "clip"), [(False, 0.3), (True, 0.0)])
def test_one_step_climbs_by_the_clipped_gradient(classifier, clean, live, clip):
    """One epoch of one step: w + lr g min(1, clip / norm), weight decay off; live, norms learn from the batch."""
    settings = RNP(unlearn_epochs=1, unlearn_lr=0.5, clip=clip, weight_decay=0.0, momentum=0.0)
    after = unlearn(settings, classifier, batches(clean, size=300), live=live)[0].network.network
    network = classifier.copy().network.network.requires_grad_(True)
    network.norm.train(live)
    x, y = clean.fit.images.float() / 255, clean.fit.labels
    torch.nn.functional.cross_entropy(network((x - 0.5) / 0.25), y).backward()
    norm = torch.stack([weight.grad.square().sum() for weight in network.parameters()]).sum().sqrt()
    assert norm > 0.3
    for name, weight in network.named_parameters():
        expected = (weight + 0.5 * weight.grad * (clip / norm if clip else 1)).detach()
        torch.testing.assert_close(after.get_parameter(name).detach(), expected, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(after.norm.running_mean, network.norm.running_mean)
    assert torch.equal(after.norm.running_mean, classifier.model.network.norm.running_mean) != live
    assert not after.norm.training


@pytest.mark.parametrize(("live", "ablation"), [(False, "zero"), (True, "mean")])
def test_masks_come_from_the_unlearned_network_and_prune_the_found_one(classifier, clean, live, ablation):
    """The masks again, step by step, from the parts that other tests check; statistics of the file stay."""
    settings = RNP(
        epochs=2, lr=0.3, batch=100, flip=False, crop=0, unlearn_lr=1e-2, momentum=0.0, budget=0.9, ablation=ablation
    )  # fmt: skip
    result = settings.run(Task(classifier, clean, live=live))
    shuffled = batches(clean)
    unlearned = unlearn(settings, classifier, shuffled, live=live)[0]
    student = MaskStudent(unlearned, clean.fit, ablation, live=live)
    for _ in range(2):
        for x, y in shuffled:
            switch(student.norms, live)
            loss = torch.nn.functional.cross_entropy(student.logits(x), y)
            with torch.no_grad():
                for mask, slope in zip(student.masks, torch.autograd.grad(loss, student.masks), strict=True):
                    mask -= 0.3 * slope
            clamp(student.masks)
    whole = MaskStudent(classifier, clean.fit, ablation)
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
