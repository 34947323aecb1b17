import math

import pytest
import torch

from wiper_cli.images.splits import Part
from wiper_cli.purifiers.machinery import training
from wiper_cli.purifiers.machinery.clean_unlearning import accuracy, unlearn
from wiper_cli.purifiers.machinery.training import Batches, HeadStudent
from wiper_cli.purifiers.methods.lmr import LMR
from wiper_cli.verdict import Problem


def batches(student, part):
    generator = torch.Generator().manual_seed(0)
    return Batches(student.inputs(part), part.labels, 100, student.device, generator)


def test_accuracy_is_that_of_the_student_as_found(classifier, clean):
    student = HeadStudent(classifier)
    expected = float((classifier.logits(clean.select.images).argmax(1) == clean.select.labels).float().mean())
    assert accuracy(classifier, clean.select) == pytest.approx(expected)
    assert training.accuracy(student, student.inputs(clean.select), clean.select.labels) == pytest.approx(
        expected
    )


def test_forgets_to_the_accuracy_asked_for_and_no_further(classifier, clean):
    student = HeadStudent(classifier)
    steps, reached = unlearn(student, batches(student, clean.fit), LMR(unlearn_until=0.5), clean.fit)
    assert steps % 3 == 0
    assert 0.0 < reached <= 0.5
    assert training.accuracy(student, student.inputs(clean.fit), clean.fit.labels) == reached


def test_one_step_climbs_the_clipped_gradient(classifier, clean):
    """One batch, one pass: w + lr g min(1, clip / ||g||), g by hand."""
    part = Part(clean.fit.images[:50], clean.fit.labels[:50])
    student = HeadStudent(classifier)
    x = student.inputs(part)
    w, b = (value.detach().double() for value in (student.weight, student.bias))
    p = (x.double() @ w.T + b).softmax(1)
    p[torch.arange(50), part.labels] -= 1
    gw, gb = p.T @ x.double() / 50, p.mean(0)
    scale = min(1.0, 0.01 / math.sqrt(float(gw.square().sum() + gb.square().sum())))
    assert scale < 1
    unlearn(student, batches(student, part), LMR(unlearn_epochs=1, unlearn_lr=0.1, clip=0.01), part)
    torch.testing.assert_close(student.weight.detach().double(), w + 0.1 * scale * gw, rtol=0, atol=1e-6)
    torch.testing.assert_close(student.bias.detach().double(), b + 0.1 * scale * gb, rtol=0, atol=1e-6)


def test_no_images_to_choose_on(classifier, clean):
    with pytest.raises(Problem, match="no clean images"):
        accuracy(classifier, Part(clean.fit.images[:0], clean.fit.labels[:0]))
