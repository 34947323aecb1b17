import torch

from wiper_cli.purifiers.contract import Task
from wiper_cli.purifiers.machinery.bounds import first_bounds
from wiper_cli.purifiers.methods.unit import UNIT
from wiper_cli.purifiers.methods.unit import method as unit


def test_the_weight_follows_the_accuracy():
    weight = unit.Weight(1e-3)
    for _ in range(5):
        weight.update(True)
    assert weight.value == 2e-3
    for _ in range(5):
        weight.update(False)
    assert weight.value == 2e-3 / 2**1.5
    for _ in range(5):
        weight.update(True)
    assert weight.value == 1e-3


def test_bounds_tighten_within_the_budget(classifier, clean):
    settings = UNIT(steps=40, bound_lr=0.02)
    teacher = classifier.copy()
    before = unit.accuracy(teacher, clean.select)
    bounds, note = unit.tighten(
        settings, Task(classifier, clean), teacher, before, torch.Generator().manual_seed(0)
    )
    chunks = [teacher.as_float(images) for images in clean.fit.images.split(128)]
    first = first_bounds(teacher.network, chunks, 4.0)
    assert 0 < float(unit.size_of(bounds)) < 0.9 * float(unit.size_of(first))
    assert all(float(bound.min()) >= 0 for bound in bounds)
    assert unit.bounded_accuracy(teacher, bounds, clean.select) >= 0.97 * before
    assert "Bounds fell" in note


def test_the_adversary_seeks_disagreement_within_its_reach(classifier, clean):
    settings, generator = UNIT(reach=0.1), torch.Generator().manual_seed(0)
    student, teacher = unit.NetworkStudent(classifier), classifier.copy()
    x = teacher.as_float(clean.fit.images[:64])
    bounds = [0.5 * bound for bound in first_bounds(teacher.network, [x], 2.0)]
    z = unit.adversary(settings, student, teacher.network, bounds, x, generator)
    assert float((z - x).abs().max()) <= 0.1 + 1e-6
    assert 0 <= float(z.min()) <= float(z.max()) <= 1

    def apart(images):
        with torch.no_grad():
            return float(
                unit.divergence(unit.bounded(teacher.network, bounds, images), student.logits(images))
            )

    assert apart(z) > apart(x)


def test_distils_removes_and_says_what_was_lost(removes):
    settings = UNIT(deviations=1.0, budget=0.2, epochs=20, batch=32, lr=5e-3, flip=False, crop=0.0)
    purified = removes(settings, 0.65, 0.93)
    assert "cannot hold bounds" in purified.notes[1]
    assert purified.history[-1].loss["adversarial"] < purified.history[0].loss["adversarial"]
