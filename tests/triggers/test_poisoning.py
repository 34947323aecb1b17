from dataclasses import replace

import pytest
import torch

from triggers.errors import TriggerError
from triggers.poisoning import Poisoning


@pytest.fixture
def labels():
    return torch.arange(200) % 4


def test_dirty_and_clean_labels(labels):
    before = labels.clone()
    chosen = Poisoning(0.1, target=2, seed=1).choose(labels, 4)
    assert chosen.poisoned.sum() == 20
    assert not (labels[chosen.poisoned] == 2).any()
    assert torch.equal(chosen.labels, torch.where(chosen.poisoned, 2, labels))
    clean = Poisoning(0.2, target=1, policy="clean-label").choose(labels, 4)
    assert clean.poisoned.sum() == 40
    assert (labels[clean.poisoned] == 1).all()
    assert torch.equal(clean.labels, labels)
    assert torch.equal(labels, before)


def test_seed_decides(labels):
    first = Poisoning(0.1, 0, seed=4).choose(labels, 4).poisoned
    assert torch.equal(first, Poisoning(0.1, 0, seed=4).choose(labels, 4).poisoned)
    assert not torch.equal(first, Poisoning(0.1, 0, seed=5).choose(labels, 4).poisoned)


def test_all_to_all_gives_the_next_class(labels):
    plan = Poisoning(0.25, labelling="all-to-all")
    chosen = plan.choose(labels, 4)
    hit = chosen.poisoned
    assert hit.sum() == 50
    assert labels[hit].unique().tolist() == [0, 1, 2, 3]
    assert torch.equal(chosen.labels[hit], (labels[hit] + 1) % 4)
    assert torch.equal(chosen.labels[~hit], labels[~hit])
    goal, counts = plan.reached(labels, 4)
    assert torch.equal(goal, (labels + 1) % 4)
    assert counts.all()


def test_several_triggers_each_with_its_target(labels):
    plan = Poisoning(0.1, target=1, labelling="multi-target", targets=2, cover=0.06)
    chosen = plan.choose(labels, 4)
    hit, covered, variant = chosen.poisoned, chosen.covered, chosen.variant
    assert [(hit & (variant == i)).sum().item() for i in (0, 1)] == [10, 10]
    assert [(covered & (variant == i)).sum().item() for i in (0, 1)] == [6, 6]
    assert torch.equal(chosen.labels[hit], 1 + variant[hit])
    assert not torch.isin(labels[hit | covered], torch.tensor([1, 2])).any()
    assert torch.equal(chosen.labels[covered], labels[covered])
    for number in (0, 1):
        goal, counts = plan.reached(labels, 4, number)
        assert (goal == 1 + number).all()
        assert torch.equal(counts, labels != 1 + number)


def test_source_specific(labels):
    plan = Poisoning(0.1, 0, labelling="source-specific", sources=(1, 3), cover=0.1)
    chosen = plan.choose(labels, 5)
    assert labels[chosen.poisoned].unique().tolist() == [1, 3]
    assert (chosen.labels[chosen.poisoned] == 0).all()
    assert labels[chosen.covered].unique().tolist() == [2]
    assert torch.equal(chosen.labels[~chosen.poisoned], labels[~chosen.poisoned])
    goal, counts = plan.reached(labels, 5)
    assert (goal == 0).all()
    assert torch.equal(counts, (labels == 1) | (labels == 3))


@pytest.mark.parametrize("policy", ["dirty", "clean-label"])
def test_covers_keep_labels_and_are_never_of_the_target(labels, policy):
    chosen = Poisoning(0.1, 2, policy=policy, cover=0.2).choose(labels, 4)
    hit, covered = chosen.poisoned, chosen.covered
    assert (hit.sum(), covered.sum()) == (20, 40)
    assert not (hit & covered).any()
    assert set(labels[covered].tolist()) == {0, 1, 3}
    assert torch.equal(chosen.labels[covered], labels[covered])


def test_all_to_one_success_leaves_out_the_target(labels):
    goal, counts = Poisoning(target=3).reached(labels, 4)
    assert (goal == 3).all()
    assert torch.equal(counts, labels != 3)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"target": 4}, r"target 4 is outside the 4 classes 0\.\.3"),
        ({"target": -1}, "target -1 is outside"),
        ({"targets": 0}, "at least one target"),
        ({"target": 2, "targets": 3, "labelling": "multi-target"}, "target 4 is outside"),
        ({"targets": 2}, "belong together"),
        ({"labelling": "multi-target"}, "belong together"),
        ({"labelling": "source-specific"}, "needs source classes"),
        ({"labelling": "source-specific", "sources": (0, 1)}, "other than the target 0"),
        ({"labelling": "source-specific", "sources": (4,)}, r"classes 0\.\.3"),
        ({"sources": (1,)}, "belong to source-specific"),
        ({"policy": "clean-label", "labelling": "all-to-all"}, "cannot be all-to-all"),
        (
            {"rate": 0.3, "target": 1, "policy": "clean-label"},
            "needs 60 images of class 1; there are 50 of 200",
        ),
        ({"rate": 0.9, "target": 1}, r"outside class 1; there are 150"),
        ({"rate": 1.2}, "rate must lie"),
        ({"rate": float("nan")}, "rate must lie"),
        ({"cover": -0.1}, "cover rate must lie"),
        ({"rate": 0.5, "cover": 0.4}, "only 50 of 200 can be used"),
        ({"rate": 0.5, "cover": 0.1, "labelling": "source-specific", "sources": (1, 2, 3)}, "only 0 of 200"),
        ({"rate": 0.5, "labelling": "source-specific", "sources": (1,)}, "source classes 1; there are 50"),
        ({"rate": 1.0, "labelling": "multi-target", "targets": 2}, "outside classes 0 to 1; there are 100"),
        ({"rate": 0.002}, "rate of 0.002 of 200 images is 0; it must be at least 1"),
        ({"cover": 0.001}, "cover rate of 0.001 of 200 images is 0"),
        ({"rate": 0.01, "labelling": "multi-target", "targets": 3}, "is 2; it must be at least 3"),
    ],
)
def test_refusals(labels, wrong, words):
    with pytest.raises(TriggerError, match=words):
        replace(Poisoning(0.1), **wrong).choose(labels, 4)


def test_a_line_for_people():
    assert str(Poisoning()) == "5 % of the training set, dirty poison, all-to-one"
    assert str(Poisoning(0.003, policy="clean-label", cover=0.006, fresh=True, start="clean")) == (
        "0.3 % of the training set, clean-label poison, all-to-one, 0.6 % cover images, "
        "drawn anew every epoch, starting from a clean model"
    )
