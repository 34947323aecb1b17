import copy
from dataclasses import replace

import pytest
import torch

from formats import apply_edit
from wiper_cli.classifier import Classifier
from wiper_cli.purifiers.contract import Task
from wiper_cli.purifiers.methods.fst import FST
from wiper_cli.purifiers.methods.fst.method import project, uniform
from wiper_cli.verdict import Problem


def test_the_new_head_is_drawn_by_its_units():
    drawn = uniform((10, 400), 400, torch.Generator().manual_seed(0))
    assert drawn.abs().max() <= 0.05
    assert drawn.abs().max() > 0.049
    assert abs(float(drawn.std()) - 0.1 / 12**0.5) < 1e-3


def test_projection_keeps_direction_and_restores_the_norm():
    old, weight = torch.tensor([[3.0, 4.0]]), torch.tensor([[1.0, 2.0]])
    project(weight, old)
    torch.testing.assert_close(weight, torch.tensor([[1.0, 2.0]]) * 5 / 5**0.5)


def test_one_step_by_hand(classifier, clean, trained):
    """Head and body after one step of SGD on CE + alpha <W, W0>, from the drawn head."""
    settings = FST(
        epochs=1, batch=300, alpha=0.7, lr=0.05, momentum=0.0, schedule="constant", flip=False, crop=0
    )
    result = settings.run(Task(classifier, clean, seed=5))
    trained = copy.deepcopy(trained).eval()
    generator = torch.Generator().manual_seed(5)
    old = trained.fc.weight.detach().clone()
    with torch.no_grad():
        trained_head = (uniform((10, 96), 96, generator), uniform((10,), 96, generator))
    names = dict(trained.named_parameters())
    start = {name: value.detach().clone() for name, value in names.items()}
    start["fc.weight"], start["fc.bias"] = trained_head
    start = {name: value.requires_grad_(True) for name, value in start.items()}
    x = (clean.fit.images.float() / 255 - 0.5) / 0.25
    logits = torch.func.functional_call(trained, start, (x,))
    loss = torch.nn.functional.cross_entropy(logits, clean.fit.labels)
    gradients = torch.autograd.grad(loss, list(start.values()))
    after = {n: (w - 0.05 * g).detach() for (n, w), g in zip(start.items(), gradients, strict=True)}
    after["fc.weight"] = after["fc.weight"] - 0.05 * 0.7 * old
    after["fc.weight"] *= old.norm() / after["fc.weight"].norm()
    for name, values in apply_edit(classifier.model, result.edit).named().items():
        torch.testing.assert_close(values.detach(), after[name], rtol=1e-4, atol=1e-5)


def test_needs_a_linear_head(opened, trained, clean):
    model = opened(trained)
    model.head = replace(model.head, linear=False)
    with pytest.raises(Problem):
        FST().run(Task(Classifier(model, (0.5,), (0.25,)), clean))


def test_removes_the_backdoor(removes):
    removes(FST(flip=False, crop=0.0), 0.1, 0.87)
