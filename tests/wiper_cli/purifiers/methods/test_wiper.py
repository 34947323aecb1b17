import dataclasses

import pytest
import torch
from torch.nn import functional as F

from formats import Head, apply_edit
from wiper_cli.classifier import Classifier
from wiper_cli.purifiers.contract import Task
from wiper_cli.purifiers.machinery.penalties import ar_slope, lowest
from wiper_cli.purifiers.machinery.training import Batches, NetworkStudent
from wiper_cli.purifiers.methods.wiper import Wiper
from wiper_cli.purifiers.methods.wiper.method import Layer, backward_order, penalised
from wiper_cli.salience import METRICS
from wiper_cli.salience.bs import benign_salience
from wiper_cli.verdict import Problem


def run(settings, classifier, clean):
    return settings.run(Task(classifier, clean))


def test_one_step_is_equation_7(classifier, clean):
    # One batch of all images, so that nothing depends on their order.
    settings = Wiper(train="head", epochs=1, batch=len(clean.fit), alpha=0.3, lr=0.1)
    found = apply_edit(classifier.model, run(settings, classifier, clean).edit).network
    features, logits = classifier.features(clean.fit.images)
    weight, bias = (value.requires_grad_(True) for value in classifier.head())
    F.cross_entropy(features @ weight.T + bias, clean.fit.labels).backward()
    mask = lowest(benign_salience(features, logits, clean.fit.labels, weight.detach()), 0.5)
    expected = weight - 0.1 * (weight.grad + 0.3 * mask * ar_slope(weight))
    torch.testing.assert_close(found.fc.weight, expected, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(found.fc.bias, bias - 0.1 * bias.grad, rtol=1e-4, atol=1e-6)


def test_share_of_units_decays_as_equation_4(classifier, clean):
    # Nothing moves at lr 0, and eta 1 keeps the first salience: only the share changes.
    settings = Wiper(train="head", epochs=4, lr=0.0, eta=1.0, alpha=2.0)
    history = run(settings, classifier, clean).history
    features, logits = classifier.features(clean.fit.images)
    weight, _ = classifier.head()
    salience = benign_salience(features, logits, clean.fit.labels, weight)
    for epoch, share in zip(history, (0.5, 0.375, 0.25, 0.125), strict=True):
        expected = 2.0 * (lowest(salience, share) * weight.abs()).sum()
        assert epoch.loss["penalty"] == pytest.approx(float(expected), rel=1e-5)


def test_head_and_whole_network_agree_where_only_the_head_moves(classifier, clean):
    """The first epoch's losses before any step: cached features against the whole network."""
    both = [run(Wiper(train=t, epochs=1, lr=0.0), classifier, clean).history[0].loss for t in ("all", "head")]
    assert both[0] == pytest.approx(both[1], rel=1e-4)


@pytest.mark.parametrize("train", ["all", "head"])
def test_any_metric_chooses_the_units_anew_every_epoch(classifier, clean, train):
    """The penalty's sum over the units that the metric ranks lowest, before and after weights moved."""
    settings = Wiper(train=train, metric="am", epochs=2, batch=len(clean.fit), alpha=0.5, beta=0.5, eta=0.0)
    features, logits = classifier.features(clean.fit.images)
    weight, _ = classifier.head()
    magnitude = METRICS["am"](features, logits, clean.fit.labels, weight)
    history = run(settings, classifier, clean).history
    expected = 0.5 * (lowest(magnitude, 0.5) * weight.abs()).sum()
    assert history[0].loss["penalty"] == pytest.approx(float(expected), rel=1e-5)
    assert not torch.equal(
        lowest(magnitude, 0.5), lowest(benign_salience(features, logits, clean.fit.labels, weight), 0.5)
    )
    first = apply_edit(
        classifier.model, run(dataclasses.replace(settings, epochs=1), classifier, clean).edit
    ).network
    moved = Classifier(dataclasses.replace(classifier.model, network=first), classifier.mean, classifier.std)
    features, logits = moved.features(clean.fit.images)
    mask = lowest(METRICS["am"](features, logits, clean.fit.labels, first.fc.weight), 0.25)
    expected = 0.5 * (mask * first.fc.weight.detach().abs()).sum()
    assert history[1].loss["penalty"] == pytest.approx(float(expected), rel=1e-4)


def test_other_layers_are_ranked_by_salience_alone(classifier, clean):
    for settings in (Wiper(metric="am", last_layers=2), Wiper(metric="am", granularity="weight")):
        with pytest.raises(Problem, match="of the head only"):
            run(settings, classifier, clean)


def test_sum_reduction_is_mean_with_a_larger_rate(classifier, clean):
    size = 100
    mean = Wiper(train="head", epochs=2, batch=size, alpha=0.0, lr=0.1)
    summed = dataclasses.replace(mean, reduction="sum", lr=0.1 / size)
    networks = [apply_edit(classifier.model, run(s, classifier, clean).edit).network for s in (mean, summed)]
    torch.testing.assert_close(networks[0].fc.weight, networks[1].fc.weight, rtol=1e-4, atol=1e-6)


def test_a_strong_penalty_empties_units(classifier, clean):
    """10 epochs at alpha 0.1 and momentum 0.9: the penalised half shrinks, accuracy stays."""
    result = run(Wiper(train="head", alpha=0.1, momentum=0.9), classifier, clean)
    before, after = (float(word.split()[0]) for word in result.notes[0].split(": ")[1].split(", "))
    assert after < 0.8 * before
    assert result.history[-1].select_accuracy > 0.8


@pytest.mark.parametrize(
    "change",
    [
        {"granularity": "weight"},
        {"update": "epoch"},
        {"regulariser": "l2"},
        {"train": "all", "last_layers": 3, "epochs": 1},
    ],
)
def test_switches_change_the_result(classifier, clean, change):
    base = {
        "train": "head",
        "alpha": 0.5,
        "epochs": 2,
        **{k: change[k] for k in ("train", "epochs") if k in change},
    }
    plain, switched = Wiper(**base), Wiper(**{**base, **change})
    first, second, again = (run(s, classifier, clean).edit for s in (plain, switched, switched))
    assert first != second
    assert second == again


def test_ar_is_l1_while_no_weight_exceeds_one(classifier, clean):
    assert classifier.head()[0].abs().max() < 1
    first, second = (
        run(Wiper(train="head", alpha=0.5, epochs=2, regulariser=name), classifier, clean)
        for name in ("ar", "l1")
    )
    assert first.edit == second.edit


def test_layers_count_from_the_output(classifier, clean):
    student = NetworkStudent(classifier)
    batches = Batches(clean.fit.images, clean.fit.labels, 64, student.device, torch.Generator())
    assert backward_order(student, batches) == ["fc.weight", "conv2.weight", "conv1.weight"]
    head, conv = penalised(student, batches, Wiper(last_layers=2))
    assert (head.name, head.within, conv.name, conv.within) == ("fc.weight", (0,), "conv2.weight", (1, 2, 3))
    assert penalised(student, batches, Wiper(granularity="weight"))[0].within == ()
    with pytest.raises(Problem, match="--train all"):
        run(Wiper(train="head", last_layers=2), classifier, clean)


def test_units_of_a_transposed_head_are_its_rows():
    weight = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])  # stored [D,K]
    assert Layer("w", weight, (1,)).salience(-torch.ones(2, 3)).flatten().tolist() == [6.0, 15.0]


def test_a_head_that_is_not_linear_is_refused_for_head_training(classifier, clean):
    model = dataclasses.replace(
        classifier.model, head=Head("fc.weight", "fc.bias", units=96, classes=10, linear=False)
    )
    with pytest.raises(Problem, match="not a linear map"):
        run(Wiper(train="head"), Classifier(model, (0.5,), (0.25,)), clean)


def test_head_only_models_train_on_the_runtimes_features(classifier, clean):
    class Runtime:
        def features_and_logits(self, x):
            return classifier.features(x * 0.25 + 0.5)

        def head_values(self):
            return classifier.head()

    model = dataclasses.replace(classifier.model, network=None, runtime=Runtime())
    there = run(Wiper(train="head", epochs=1), Classifier(model, (0.5,), (0.25,)), clean).edit
    here = run(Wiper(train="head", epochs=1), classifier, clean).edit
    assert set(there.tensors) == set(here.tensors)
    for name, new in there.tensors.items():
        values = [
            torch.frombuffer(bytearray(data), dtype=torch.float32)
            for data in (new.data, here.tensors[name].data)
        ]
        torch.testing.assert_close(*values, rtol=1e-4, atol=1e-6)


def test_removes_the_backdoor(removes):
    removes(Wiper(alpha=0.1, momentum=0.9, epochs=20, batch=32), 0.2, 0.93)
