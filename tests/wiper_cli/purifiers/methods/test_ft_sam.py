import torch

from formats import apply_edit
from wiper_cli.purifiers.contract import Task
from wiper_cli.purifiers.methods.fine_tuning import FineTuning
from wiper_cli.purifiers.methods.ft_sam import FTSAM
from wiper_cli.purifiers.methods.ft_sam.method import ascent


def test_two_steps_on_a_quadratic():
    """L = 1/2 sum a w^2: g = a w, e = rho w^2 g / |w g|, and the gradient at w + e is a (w + e)."""
    a, w = torch.tensor([1.0, 2.0, 4.0]), torch.tensor([1.0, -0.5, 2.0], requires_grad=True)
    g = (a * w).detach()
    away = ascent({"w": w}, (g,), 0.3)["w"]
    norm = sum((abs(float(x)) * float(y)) ** 2 for x, y in zip(w.detach(), g, strict=True)) ** 0.5
    e = torch.tensor([0.3 * float(x) ** 2 * float(y) / norm for x, y in zip(w.detach(), g, strict=True)])
    torch.testing.assert_close(away.detach(), w.detach() + e)
    (0.5 * a * away.square()).sum().backward()
    torch.testing.assert_close(w.grad, a * (w.detach() + e))


def test_the_norm_runs_over_all_weights_and_the_step_follows_the_scale_of_a_weight():
    w = {"a": torch.tensor([3.0]), "b": torch.tensor([1.0, 2.0])}
    g = (torch.tensor([1.0]), torch.tensor([2.0, -1.0]))
    away = ascent(w, g, 1.0)
    relative = torch.cat([(away[n] - w[n]) / w[n] for n in w])
    torch.testing.assert_close(relative.norm(), torch.tensor(1.0))
    scaled = ascent({"a": 10 * w["a"], "b": w["b"]}, (g[0] / 10, g[1]), 1.0)
    torch.testing.assert_close(scaled["a"], 10 * away["a"])
    torch.testing.assert_close(scaled["b"], away["b"])


def test_without_ascent_it_is_fine_tuning_with_smooth_labels(classifier, clean):
    common = {"epochs": 1, "batch": 64, "lr": 0.01, "flip": False}
    sam = FTSAM(rho=0.0, smoothing=0.0, **common).run(Task(classifier, clean)).edit
    plain = FineTuning(**common).run(Task(classifier, clean)).edit
    others = apply_edit(classifier.model, plain).named()
    for name, values in apply_edit(classifier.model, sam).named().items():
        torch.testing.assert_close(values, others[name], rtol=1e-4, atol=1e-6)


def test_removes_the_backdoor(removes):
    removes(FTSAM(epochs=20, batch=32, lr=0.05, rho=0.5, flip=False, crop=0.0), 0.3, 0.93)
