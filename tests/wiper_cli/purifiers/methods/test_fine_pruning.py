import pytest
import torch

from formats import apply_edit
from wiper_cli.classifier import Classifier
from wiper_cli.purifiers.contract import Task
from wiper_cli.purifiers.methods.fine_pruning import FinePruning
from wiper_cli.purifiers.methods.fine_pruning.method import tolerated


def edited(classifier, purified):
    return Classifier(apply_edit(classifier.model, purified.edit), classifier.mean, classifier.std)


@pytest.mark.parametrize("train", ["all", "head"])
def test_the_least_active_units_are_gone_and_stay_gone(classifier, clean, train):
    features, _ = classifier.features(clean.fit.images)
    least = features.double().abs().mean(0).topk(29, largest=False).indices
    purified = FinePruning(train=train, share=0.3, epochs=2, flip=False).run(Task(classifier, clean))
    columns = edited(classifier, purified).head()[0].abs().sum(0)
    assert torch.equal((columns == 0).nonzero()[:, 0], least.sort().values)
    assert (purified.notes, len(purified.history)) == (("29 of 96 units were removed, least am first.",), 2)


def test_salience_may_rank_instead(classifier, clean):
    by = {
        metric: FinePruning(metric=metric, share=0.3, epochs=1).run(Task(classifier, clean)).edit.tensors
        for metric in ("am", "bs")
    }
    assert by["am"]["fc.weight"] != by["bs"]["fc.weight"]


def test_pruning_stops_before_the_accuracy_falls_too_far(classifier, clean):
    features, _ = classifier.features(clean.select.images)
    weight, bias = classifier.head()
    scores = torch.arange(96.0).double()

    def accuracy(share):
        kept = features.clone()
        kept[:, : round(share * 96)] = 0
        return float(((kept @ weight.T + bias).argmax(1) == clean.select.labels).float().mean())

    found = tolerated(classifier, scores, clean.select, 0.99, 0.1)
    floor = 0.9 * accuracy(0)
    assert 0 < found < 0.99
    assert all(accuracy(percent / 100) >= floor for percent in range(round(100 * found) + 1))
    assert accuracy(found + 0.01) < floor
    assert tolerated(classifier, scores, clean.select, 0.05, 1.0) == 0.05


def test_removes_the_backdoor(removes):
    removes(FinePruning(flip=False, crop=0.0), 0.5, 0.93)
