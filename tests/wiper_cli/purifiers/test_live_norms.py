"""Batch norm trained with its statistics, where the user asks for it."""

import pytest
import torch
from torch import nn

from formats import apply_edit
from wiper_cli.classifier import Classifier
from wiper_cli.purifiers.contract import Task
from wiper_cli.purifiers.methods.fine_tuning import FineTuning
from wiper_cli.purifiers.methods.wiper import Wiper
from wiper_cli.verdict import Problem

#: One step an epoch on all images as they are, and nothing but the statistics moves.
STILL = {"epochs": 2, "lr": 0.0, "batch": 300, "flip": False, "crop": 0.0}


def test_statistics_follow_the_batches_and_enter_the_edit(classifier, clean):
    edit = FineTuning(**STILL).run(Task(classifier, clean, live=True)).edit
    assert set(edit.tensors) == {"norm.running_mean", "norm.running_var"}
    found = apply_edit(classifier.model, edit).network.norm
    given = classifier.model.network
    with torch.no_grad():
        y = given.conv1((clean.fit.images.float() / 255 - 0.5) / 0.25)
    mean, variance = y.mean((0, 2, 3)), y.var((0, 2, 3))
    expected = 0.81 * given.norm.running_mean + 0.19 * mean
    torch.testing.assert_close(found.running_mean, expected, rtol=1e-5, atol=1e-6)
    expected = 0.81 * given.norm.running_var + 0.19 * variance
    torch.testing.assert_close(found.running_var, expected, rtol=1e-5, atol=1e-6)


def test_losses_are_of_the_batch_and_accuracy_of_the_statistics(classifier, clean):
    live, frozen = (
        FineTuning(**{**STILL, "epochs": 1}).run(Task(classifier, clean, live=live)) for live in (True, False)
    )
    network = classifier.model.network
    network.norm.train()
    with torch.no_grad():
        logits = network((clean.fit.images.float() / 255 - 0.5) / 0.25)
    network.norm.eval()
    expected = nn.functional.cross_entropy(logits, clean.fit.labels)
    assert live.history[0].loss["cross_entropy"] == pytest.approx(float(expected), rel=1e-5)
    assert frozen.history[0].loss["cross_entropy"] != pytest.approx(float(expected), rel=1e-5)
    after = Classifier(apply_edit(classifier.model, live.edit), classifier.mean, classifier.std)
    answered = after.logits(clean.select.images).argmax(1)
    right = int((answered == clean.select.labels).sum())
    assert live.history[0].select_accuracy == right / len(clean.select)


def test_ranking_units_leaves_the_statistics_alone(classifier, clean):
    """One batch an epoch at lr 0: the statistics follow that batch, however units are ranked."""
    still = {**STILL, "epochs": 1}
    edits = [
        Wiper(**still, metric=metric).run(Task(classifier, clean, live=True)).edit for metric in ("bs", "am")
    ]
    assert edits[0].tensors["norm.running_mean"] == edits[1].tensors["norm.running_mean"]


def test_a_file_without_statistics_is_refused(clean, opened):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = nn.Sequential()
        network.add_module("fc", nn.Sequential(nn.Flatten(), nn.Linear(64, 10)))
    classifier = Classifier(opened(network, ("fc.1.weight", "fc.1.bias")), (0.5,), (0.25,))
    with pytest.raises(Problem, match="stored with its statistics"):
        Wiper(epochs=1).run(Task(classifier, clean, live=True))
    with pytest.raises(Problem, match="--train head"):
        Wiper(epochs=1, train="head").run(Task(classifier, clean, live=True))
