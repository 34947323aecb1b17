import dataclasses

import pytest
import torch
from torch.nn import functional as F

from wiper_cli.classifier import Classifier
from wiper_cli.perturbations import Recovered, square
from wiper_cli.progress import silent
from wiper_cli.purifiers.contract import Task
from wiper_cli.purifiers.methods.unlearn import Unlearn
from wiper_cli.purifiers.methods.unlearn.method import divergence, push

FEW = Unlearn(epochs=2, min_steps=4, warmup=2, flip=False)


def near(top=5, left=6):
    """What a probe could have found: a square that covers the planted one only in part."""
    canvas, mask = square((1, 8, 8), top, left, 2, "white")
    return Recovered("square", 0, {"canvas": canvas, "mask": mask}, {"success": 0.9})


def test_removes_most_of_the_backdoor_and_keeps_accuracy(removes, classifier):
    settings = Unlearn(flip=False, crop=0.0, min_steps=100)
    result = removes(settings, 0.4, 0.93, suspects=[0], recovered=[near()])
    assert set(result.edit.tensors) == set(classifier.model.tensors)


def test_without_a_suspect_it_says_where_it_aimed(classifier, clean):
    assert "10 classes" in FEW.run(Task(classifier, clean)).notes[0]
    assert not FEW.run(Task(classifier, clean, [3], [], silent, 0)).notes


def test_small_sets_are_passed_more_often(classifier, clean):
    calls = []
    settings = dataclasses.replace(FEW, min_steps=20, epochs=2, batch=64)
    settings.run(Task(classifier, clean, [0], [], lambda *call: calls.append(call), 0))
    assert calls[:2] == [("warm-up", 1, 2), ("warm-up", 2, 2)]
    # 300 images in batches of 64 are 4 steps a pass: 3 passes for each of 2 epochs.
    assert calls[-1] == ("purify", 24, 24)


@pytest.mark.parametrize("change", [{"alpha": 0.5}, {"windows": 1}, {"clean_weight": 3.0}])
def test_options_change_the_result(classifier, clean, change):
    plain, changed = (
        s.run(Task(classifier, clean, [0], [], silent, 0)) for s in (FEW, dataclasses.replace(FEW, **change))
    )
    assert plain.edit != changed.edit


def test_works_without_a_known_head(classifier, clean):
    model = dataclasses.replace(classifier.model, head=None)
    result = FEW.run(Task(Classifier(model, (0.5,), (0.25,)), clean, [0], [], silent, 0))
    assert len(result.history) == 2


def test_divergence_is_the_scaled_kullback_leibler_of_softened_outputs():
    a, b = (torch.randn(6, 4, generator=torch.Generator().manual_seed(n)) for n in (0, 1))
    p, q = (a / 2).softmax(1), (b / 2).softmax(1)
    torch.testing.assert_close(divergence(a, b), 4 * (p * (p / q).log()).sum(1).mean())
    assert divergence(a, a).abs() < 1e-6


def test_push_counts_wrong_classes_only():
    logits = torch.tensor([[2.0, 0.0], [2.0, 0.0]])
    p = F.softmax(logits[0], 0)
    labels, reached = torch.tensor([0, 1]), torch.tensor([0, 0])
    torch.testing.assert_close(push(logits, reached, labels), -(1 - p[0] + 1e-6).log() / 2)


@pytest.mark.parametrize("facts", [{"success": 0.3}, {"success": 0.05, "remnant": True}])
def test_weak_finds_are_not_shown(classifier, clean, facts):
    """What an inversion made of nothing leaves the outcome as it is without any find."""
    weak = dataclasses.replace(near(), facts=facts)
    found = [FEW.run(Task(classifier, clean, [0], recovered)).edit for recovered in ([], [weak], [near()])]
    assert found[0].tensors == found[1].tensors
    assert found[0].tensors != found[2].tensors


def test_what_an_earlier_round_left_is_shown_though_it_is_weak(classifier, clean):
    left = dataclasses.replace(near(), facts={"success": 0.3, "remnant": True})
    found = [FEW.run(Task(classifier, clean, [0], recovered)).edit for recovered in ([], [left])]
    assert found[0].tensors != found[1].tensors
