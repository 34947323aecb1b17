import copy

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from wiper_cli.purifiers.contract import Task
from wiper_cli.purifiers.methods.nad import NAD
from wiper_cli.purifiers.methods.nad.method import attention, places


def test_attention_by_hand():
    maps = np.random.default_rng(0).standard_normal((2, 3, 4, 5)).astype(np.float32)
    expected = np.zeros((2, 20))
    for n in range(2):
        for i in range(4):
            for j in range(5):
                expected[n, 5 * i + j] = sum(float(maps[n, c, i, j]) ** 2 for c in range(3))
        expected[n] /= np.sqrt((expected[n] ** 2).sum())
    np.testing.assert_allclose(attention(torch.from_numpy(maps)).numpy(), expected, rtol=1e-5)
    np.testing.assert_allclose(attention(torch.from_numpy(7 * maps)).numpy(), expected, rtol=1e-5)


def test_the_loss_by_hand(classifier, clean):
    """At rate 0 the student is its teacher. One step after the teacher's, the loss is the one computed here."""
    whole = {
        "epochs": 1, "teacher_epochs": 1, "batch": 300, "flip": False, "crop": 0.0, "schedule": "constant",
    }  # fmt: skip
    loss = NAD(lr=0.0, **whole).run(Task(classifier, clean)).history[0].loss
    x = (clean.fit.images / 255 - 0.5) / 0.25
    network = copy.deepcopy(classifier.network.network).requires_grad_(True)
    before = F.cross_entropy(network(x), clean.fit.labels)
    assert (loss["cross_entropy"], loss["attention_1"]) == (pytest.approx(before.item(), rel=1e-4), 0)

    loss = (
        NAD(lr=0.1, momentum=0.0, weight_decay=0.0, clip=0.0, **whole)
        .run(Task(classifier, clean))
        .history[0]
        .loss
    )
    before.backward()
    teacher = copy.deepcopy(network)
    with torch.no_grad():
        for weight, old in zip(teacher.parameters(), network.parameters(), strict=True):
            weight -= 0.1 * old.grad
        mine, theirs = (
            F.relu(n.norm(n.conv1(x))).square().sum(1).flatten(1).double().numpy() for n in (network, teacher)
        )
    mine, theirs = (a / np.linalg.norm(a, axis=1, keepdims=True) for a in (mine, theirs))
    assert loss["attention_1"] == pytest.approx(500 * ((mine - theirs) ** 2).mean(), rel=1e-3)
    assert loss["cross_entropy"] == pytest.approx(before.item(), rel=1e-4)


def test_places_are_the_last_at_each_size(classifier, clean):
    assert [layer.weight for layer in places(classifier, clean.fit.images[:2])] == ["conv2.weight"]


def test_weakens_the_backdoor(removes):
    removes(NAD(batch=32, lr=0.05, flip=False, crop=0.0), 0.65, 0.93)
