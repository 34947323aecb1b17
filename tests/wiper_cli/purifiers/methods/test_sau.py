import math

import torch
from torch.nn import functional as F

from wiper_cli.purifiers.machinery.training import NetworkStudent
from wiper_cli.purifiers.methods.sau import SAU
from wiper_cli.purifiers.methods.sau.method import adversary, jensen_shannon, unlearning


def test_jensen_shannon_by_hand():
    p, q = [0.7, 0.2, 0.1], [0.1, 0.3, 0.6]
    m = [(a + b) / 2 for a, b in zip(p, q, strict=True)]
    kl = [sum(a * math.log(a / c) for a, c in zip(r, m, strict=True)) for r in (p, q)]
    found = jensen_shannon(torch.tensor([p]).log(), torch.tensor([q]).log() + 5)
    torch.testing.assert_close(found, torch.tensor([(kl[0] + kl[1]) / 2]))
    torch.testing.assert_close(jensen_shannon(torch.zeros(1, 3), torch.zeros(1, 3)), torch.zeros(1))


def test_only_images_that_fool_the_found_network_are_unlearned():
    p = torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.8, 0.1], [0.2, 0.2, 0.6]])
    loss = unlearning(p.log(), torch.tensor([0, 1, 1]), torch.tensor([True, False, True]))
    expected = -(math.log(1 - 0.5 + 1e-6) + math.log(1 - 0.2 + 1e-6)) / 3
    torch.testing.assert_close(loss, torch.tensor(expected))


def test_one_inner_step_by_hand(classifier, clean, trained):
    """From the top corner of the box: nothing is shared at first only where answers did not both change."""
    found = classifier.copy()
    student = NetworkStudent(classifier)
    with torch.no_grad():
        student.weights["fc.weight"].mul_(0.7)
    x, y = clean.fit.images[:40].float() / 255, clean.fit.labels[:40]
    with torch.no_grad():
        answers = student.network(x).argmax(1), found.network(x).argmax(1)
    settings = SAU(inner_steps=1, reach=0.15, untargeted=0.3)
    d = torch.full_like(x, 0.15, requires_grad=True)
    z, z0 = student.network(x + d), found.network(x + d)
    p, p0 = z.softmax(1), z0.softmax(1)
    total = 0
    for n in range(40):
        a, b = int(z[n].argmax()), int(z0[n].argmax())
        same, same0 = a == answers[0][n], b == answers[1][n]
        m = (p[n] + p0[n]) / 2
        js = 0.5 * (F.kl_div(m.log(), p[n], reduction="sum") + F.kl_div(m.log(), p0[n], reduction="sum"))
        total = total + (js if same or same0 or a != b else 0)
        total = (
            total - 0.15 * (-p[n, y[n]].log() if same else 0) - 0.15 * (-p0[n, y[n]].log() if same0 else 0)
        )
    (slope,) = torch.autograd.grad(total / 40, d)
    expected = (0.15 - 0.15 * slope.sign()).clamp(-0.15, 0.15)
    result = adversary(student, found, x, y, *answers, settings)
    certain = slope.abs() > 1e-7
    assert certain.float().mean() > 0.5
    torch.testing.assert_close(result[certain], expected[certain])


def test_the_networks_stay_as_they_are_while_the_adversary_works(classifier, clean):
    student = NetworkStudent(classifier)
    x, y = clean.fit.images[:20].float() / 255, clean.fit.labels[:20]
    d = adversary(student, classifier, x, y, y, y, SAU(inner_steps=3))
    assert not d.requires_grad
    assert d.abs().max() <= 0.2 + 1e-6
    assert all(weight.grad is None for weight in student.weights.values())


def test_the_defaults_reach_the_backdoor_and_keep_accuracy(removes):
    """At a tenth of the learning rate so few steps leave 97 of 100 attacks."""
    purified = removes(SAU(), 0.88, 0.93)
    assert purified.history[-1].loss["shared"] < purified.history[0].loss["shared"]


def test_removes_the_backdoor(removes):
    removes(SAU(epochs=15, batch=32, lr=3e-3, reach=0.4, inner_steps=5), 0.55, 0.93)
