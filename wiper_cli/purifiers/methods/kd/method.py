"""Knowledge distillation: a network of the same shape starts anew and learns from labels and the given network.

    L = hard CE(p(x), y) + (1 - hard) T^2 KL(p0(x; T) || p(x; T))

Source: Yoshida and Fujino 2020; WIPER, A.4: both weights 0.5, T = 2, 50 epochs, no learning rate named. The
student sees the clean images only, so its accuracy is what so few images allow.

A new start from weights alone: kernels are drawn from N(0, 2 / fan_in), matrices from N(0, 2 / (rows + columns)),
biases are 0. Statistics of batch norm are no weights of the file, and a folded file has none, so a frozen norm
would see kernels it does not know. Therefore each pre-activation ``norm(conv(x))`` is brought to mean 0 and
variance 1 on a batch of clean images, layer by layer in forward order (as Mishkin and Matas 2016, LSUV), through
kernel and bias or through the live norm's weight and bias. Other vectors (a norm that reads no convolution, ...)
keep their values. Networks with other stored weights, such as transformers, are refused.

Needs labels. Cost for each image and epoch: 2 forward and 1 backward passes.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from wiper_cli.classifier import Classifier
from wiper_cli.purifiers.contract import Purified, Task
from wiper_cli.purifiers.machinery.layers import Layer, bake, convolutions, taps
from wiper_cli.purifiers.machinery.sgd import descend
from wiper_cli.purifiers.machinery.training import NetworkStudent, precision
from wiper_cli.purifiers.methods.kd import KD
from wiper_cli.verdict import ExitCode, Problem

#: Images that settle the scale of the new network.
_SETTLING = 256


def purify(settings: KD, task: Task) -> Purified:
    """Trains on ``clean.fit``; ``clean.select`` is only measured."""
    student = NetworkStudent(task.classifier, task.live)
    teacher = task.classifier.network
    assert teacher is not None
    generator = torch.Generator().manual_seed(task.seed)
    rest = start_anew(student.classifier, task.clean.fit.images[:_SETTLING], generator)

    def loss(x: Tensor, y: Tensor) -> dict[str, Tensor]:
        with torch.no_grad(), precision(student.device):
            taught = teacher(x).float()
        logits = student.logits(x)
        return {
            "cross_entropy": settings.hard * F.cross_entropy(logits, y),
            "distillation": (1 - settings.hard) * distillation(taught, logits, settings.temperature),
        }

    history = descend(student, task, settings, loss)
    notes = [f"{rest} vectors that belong to no convolution kept their values."] if rest else []
    return Purified(student.edit(), history, notes)


def distillation(teacher: Tensor, student: Tensor, temperature: float) -> Tensor:
    """T^2 KL(teacher || student) of softmax(logits / T), batch mean; logits [N,K]."""
    p, q = ((logits / temperature).log_softmax(1) for logits in (teacher, student))
    return temperature**2 * F.kl_div(q, p, reduction="batchmean", log_target=True)


def start_anew(classifier: Classifier, images: Tensor, generator: torch.Generator) -> int:
    """Draws all weights of ``classifier``'s own network, a copy, anew; uint8 ``images`` settle its scale.

    Returns how many stored vectors kept their values. Raises :class:`Problem` where the weights do not tell
    how to start.
    """
    assert classifier.network is not None
    model, named = classifier.model, classifier.model.named(classifier.network.network)
    x = classifier.as_float(images)
    layers = convolutions(classifier, x[:2])
    for layer in layers:
        if not layer.maskable:
            raise Problem(
                f"The scale of the convolution {layer.weight} is no weight of the file, so it cannot start anew; "
                "use another method.",
                ExitCode.NO_VERDICT,
            )
    kernels = {layer.weight for layer in layers}
    head = set() if model.head is None else {model.head.weight, model.head.bias}
    known = kernels | head | {name for layer in layers for name in (layer.bias, *layer.scaled)}
    drawn: set[int] = set()
    rest = 0
    # Kernels first, in forward order: the same draws whatever a file calls them.
    order = dict.fromkeys([*(layer.weight for layer in layers), *named])
    with torch.no_grad():
        for name, weight in ((name, named[name]) for name in order):
            if id(weight) in drawn:
                continue
            drawn.add(id(weight))
            if name in kernels or (name in head and weight.dim() == 4):
                deviation = (2 / weight[0].numel()) ** 0.5
            elif weight.dim() == 2:
                deviation = (2 / sum(weight.shape)) ** 0.5
            elif name in known:
                weight.fill_(
                    1.0 if any(layer.norm and layer.norm.weight == name for layer in layers) else 0.0
                )
                continue
            elif weight.dim() == 1:
                rest += 1
                continue
            else:
                raise Problem(
                    f"The weight {name} of shape {list(weight.shape)} belongs to no convolution, so the network "
                    "cannot start anew from its weights alone; use another method.",
                    ExitCode.NO_VERDICT,
                )
            weight.copy_(torch.randn(weight.shape, generator=generator) * deviation)
    for layer in layers:
        _settle(classifier, layer, x)
    return rest


def _settle(classifier: Classifier, layer: Layer, x: Tensor) -> None:
    """Brings the pre-activation of ``layer`` to mean 0 and variance 1 on ``x``; the mean only where it has a
    bias."""
    assert classifier.network is not None
    named = classifier.model.named(classifier.network.network)
    with taps(classifier, (layer,)) as tap:
        y = tap(x).output(0).detach()
    mean, deviation = y.mean((0, 2, 3)), y.std((0, 2, 3)).clamp_min(1e-4)
    weight, bias = layer.scaled
    assert weight is not None
    scale = named[weight].detach()
    values = {weight: scale / deviation.reshape(-1, *[1] * (scale.dim() - 1)).to(scale)}
    if bias is not None:
        values[bias] = (named[bias].detach().reshape(-1) - mean) / deviation
    bake(classifier, values)
