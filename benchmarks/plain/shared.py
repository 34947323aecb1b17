"""What every plain loop starts from: the network with its normalisation in front, batches, accuracy, an SGD loop."""

import copy
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wiper_cli.images.splits import Clean, Part

#: Typed settings of the method under test: both sides read their numbers from the same object.
Settings = Any


class Net(nn.Module):
    """Images in 0..1 → logits; ``h``: what the head read last. All weights trained, batch norm in eval mode."""

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.network: Any = copy.deepcopy(network).eval().requires_grad_(True)
        self.register_buffer("mean", torch.tensor(mean).reshape(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std).reshape(1, -1, 1, 1))
        self.head: nn.Linear = self.network.linear
        self.head.register_forward_pre_hook(self._keep)

    def _keep(self, module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        self.h = arguments[0]

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.network((x - self.mean) / self.std)
        return logits


def augmented(x: Tensor, flip: bool, crop: float) -> Tensor:
    """Each image mirrored or not, padded by reflection and cropped at a place of its own; float32 [N,C,H,W]."""
    count, _, height, width = x.shape
    if crop:
        reach = round(crop * height)
        top, left = torch.randint(0, 2 * reach + 1, (2, count)).tolist()
        padded = F.pad(x, [reach] * 4, mode="reflect")
        places = zip(padded, top, left, strict=True)
        x = torch.stack([image[:, t : t + height, u : u + width] for image, t, u in places])
    if flip:
        x = torch.where(torch.rand(count, 1, 1, 1) < 0.5, x.flip(3), x)
    return x


def batches(part: Part, s: Settings) -> Iterator[tuple[Tensor, Tensor]]:
    """One epoch in random order, the last incomplete batch dropped."""
    for rows in torch.randperm(len(part)).split(min(s.batch, len(part))):
        if len(rows) == min(s.batch, len(part)):
            x = part.images[rows].float() / 255
            yield augmented(x, getattr(s, "flip", False), getattr(s, "crop", 0)), part.labels[rows]


@torch.no_grad()
def accuracy(net: Callable[[Tensor], Tensor], part: Part) -> float:
    hits = 0
    for x, y in zip(part.images.split(256), part.labels.split(256), strict=True):
        hits += int((net(x.float() / 255).argmax(1) == y).sum())
    return hits / len(part)


@torch.no_grad()
def features(net: Net, part: Part) -> tuple[Tensor, Tensor]:
    """(inputs of the head [N,D], logits [N,K])."""
    found = []
    for x in part.images.split(256):
        logits = net(x.float() / 255)
        found.append((net.h, logits))
    return torch.cat([h for h, _ in found]), torch.cat([z for _, z in found])


def sgd(
    net: nn.Module,
    clean: Clean,
    s: Settings,
    loss: Callable[[Tensor, Tensor], Tensor],
    after: Callable[[], None] | None = None,
    epochs: int = 0,
) -> None:
    """SGD with momentum and a cosine; accuracy on the select part after every epoch."""
    epochs = epochs or s.epochs
    weights = [weight for weight in net.parameters() if weight.requires_grad]
    optimiser = torch.optim.SGD(weights, lr=s.lr, momentum=s.momentum, weight_decay=s.weight_decay)
    steps = epochs * (len(clean.fit) // s.batch)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for _ in range(epochs):
        for x, y in batches(clean.fit, s):
            optimiser.zero_grad()
            torch.autograd.backward(loss(x, y))
            if s.clip:
                nn.utils.clip_grad_norm_(weights, s.clip)
            optimiser.step()
            schedule.step()
            if after is not None:
                after()
        accuracy(net, clean.select)


def forget(net: nn.Module, clean: Clean, s: Settings, until: Part, live: bool = False) -> None:
    """Cross-entropy maximised, the rate doubled after every epoch, until ``until`` is answered wrongly enough.
    ``live``: batch norm in training mode meanwhile."""
    optimiser = torch.optim.SGD(net.parameters(), lr=s.unlearn_lr, momentum=s.momentum)
    for _ in range(s.unlearn_epochs):
        total = 0.0
        net.train(live)
        for x, y in batches(clean.fit, s):
            loss = F.cross_entropy(net(x), y)
            total += loss.item()
            optimiser.zero_grad()
            torch.autograd.backward(-loss)
            nn.utils.clip_grad_norm_(net.parameters(), s.clip)
            optimiser.step()
        net.eval()
        if accuracy(net, until) <= s.unlearn_until:
            break
        optimiser.param_groups[0]["lr"] *= 2


def lowest(score: Tensor, share: float) -> Tensor:
    """1.0 at the ``share`` of least score, else 0.0."""
    mask = torch.zeros_like(score)
    mask[score.topk(round(share * len(score)), largest=False).indices] = 1
    return mask


def second(logits: Tensor, labels: Tensor) -> Tensor:
    """The largest class other than the label."""
    return logits.scatter(1, labels[:, None], -torch.inf).argmax(1)


def divergence(teacher: Tensor, student: Tensor, temperature: float = 2.0) -> Tensor:
    """T^2 KL(teacher || student), batch mean."""
    p, q = (z.div(temperature).log_softmax(1) for z in (teacher, student))
    return temperature**2 * F.kl_div(q, p, reduction="batchmean", log_target=True)
