import dataclasses

import pytest
import torch
from torch.nn import functional as F

from wiper_cli.classifier import Classifier
from wiper_cli.images.splits import Clean, Part
from wiper_cli.purifiers.contract import Task
from wiper_cli.purifiers.machinery.clean_unlearning import unlearn
from wiper_cli.purifiers.machinery.training import Batches, NetworkStudent
from wiper_cli.purifiers.methods.lmr import LMR
from wiper_cli.purifiers.methods.lmr import method as lmr


def test_losses_by_hand():
    """Three images of classes 0, 1, 2; the target is 1, so the second counts nowhere."""
    logits = torch.tensor([[2.0, 1.0, 0.0], [5.0, 5.0, 5.0], [1.0, 4.0, 1.2]])
    parts = lmr.losses(logits, torch.tensor([0, 1, 2]), 1, LMR(suppression_margin=3.0))
    expected = {
        "cross_entropy": F.cross_entropy(logits[[0, 2]], torch.tensor([0, 2])),
        # z_1 - max(z_0, z_2) + 3: 1 - 2 + 3 = 2 and 4 - 1.2 + 3 = 5.8
        "suppression": torch.tensor((2 + 5.8) / 2),
        # max of the others - z_y + 0.5: 1 - 2 + 0.5 < 0 and 4 - 1.2 + 0.5 = 3.3
        "retention": torch.tensor(0.25 * 3.3 / 2),
    }
    for name, value in expected.items():
        torch.testing.assert_close(parts[name], value)


def test_only_images_of_the_target_give_no_loss():
    logits = torch.ones(2, 3, requires_grad=True)
    parts = lmr.losses(logits, torch.tensor([1, 1]), 1, LMR())
    assert [float(part.detach()) for part in parts.values()] == [0, 0, 0]
    assert float(torch.autograd.grad(sum(parts.values()), logits)[0].abs().max()) == 0


class Runtime:
    """A body that runs elsewhere: features are the image's pixels, the head is the last map."""

    def __init__(self, weight):
        self.weight = weight

    def features_and_logits(self, x):
        h = x.flatten(1)
        return h, h @ self.weight.T

    def head_values(self):
        return self.weight, torch.zeros(len(self.weight))


def backdoored_head():
    """Units 0 to 2 carry the classes, unit 3, which clean images light up too, leans to class 2, units 4 to 7 say
    nothing."""
    weight = torch.zeros(3, 8)
    weight[range(3), range(3)] = 6.0
    weight[:, 3] = torch.tensor([0.0, 0.0, 4.0])
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(300) % 3
    images = torch.randint(0, 30, (300, 1, 2, 4), dtype=torch.uint8, generator=generator)
    flat = images.flatten(1)
    flat[torch.arange(300), labels] = 250
    flat[:, 3] = torch.randint(190, 215, (300,), dtype=torch.uint8, generator=generator)
    images = flat.reshape(300, 1, 2, 4)
    return weight, Clean(*(Part(images[a:b], labels[a:b]) for a, b in ((0, 180), (180, 240), (240, 300))))


@pytest.fixture
def head_only(classifier):
    weight, clean = backdoored_head()
    model = dataclasses.replace(
        classifier.model, network=None, runtime=Runtime(weight), classes=3,
        head=dataclasses.replace(classifier.model.head, units=8, classes=3, bias=None),
    )  # fmt: skip
    return Classifier(model, (0.0,), (1.0,)), clean


def test_finds_the_target_and_cuts_the_unit_that_carries_it(head_only, monkeypatch):
    classifier, clean = head_only
    edited = {}
    monkeypatch.setattr(
        "wiper_cli.purifiers.machinery.training.head_edit",
        lambda model, weight, bias: edited.update(weight=weight) or edited,
    )
    result = LMR(train="head", share=0.125, epochs=10, batch=128).run(Task(classifier, clean))
    assert "points at class 2" in result.notes[0]
    assert torch.equal(edited["weight"][:, 3], torch.zeros(3))
    assert ((edited["weight"].abs().sum(0) > 0).sum(), result.history[-1].select_accuracy) == (7, 1.0)


def test_largest_share_within_the_budget(classifier, clean):
    tight = LMR(train="head", epochs=3, share=0.0, budget=0.0, flip=False).run(Task(classifier, clean))
    loose = LMR(train="head", epochs=3, share=0.0, budget=0.5, flip=False).run(Task(classifier, clean))
    assert loose.history[-1].select_accuracy >= 0.5
    assert loose.notes[1].startswith("48 of 96")
    assert int(tight.notes[1].split()[0]) <= 48


@pytest.mark.parametrize("live", [False, True])
def test_finds_the_target_and_removes_the_backdoor(removes, live):
    result = removes(LMR(epochs=20, lr=0.015, flip=False), 0.35, 0.9, live=live)
    assert "points at class 0" in result.notes[0]


def test_a_live_student_forgets_on_the_batch(classifier, clean):
    for live in (False, True):
        student = NetworkStudent(classifier, live)
        norm = student.network.network.norm
        before = norm.running_mean.clone()
        settings = LMR(unlearn_epochs=1, unlearn_lr=0.0)
        batches = Batches(
            clean.fit.images, clean.fit.labels, 64, student.device, torch.Generator().manual_seed(0)
        )
        unlearn(student, batches, settings, clean.fit)
        assert torch.equal(norm.running_mean, before) != live
        assert not norm.training
