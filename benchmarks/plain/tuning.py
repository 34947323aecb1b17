"""Plain loops of the methods that fine-tune: one or two forward and backward passes a step."""

import copy
import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.plain.shared import (
    Net,
    Settings,
    accuracy,
    batches,
    divergence,
    features,
    forget,
    lowest,
    sgd,
)
from wiper_cli.images.splits import Clean, Part


def fine_tuning(net: Net, clean: Clean, s: Settings) -> None:
    sgd(net, clean, s, lambda x, y: F.cross_entropy(net(x), y))


def prune(net: Net, clean: Clean, s: Settings) -> None:
    """Columns of the head of least benign salience are set to 0."""
    h, logits = features(net, clean.fit)
    residual = logits.softmax(1) - F.one_hot(clean.fit.labels, logits.shape[1])
    score = -(residual.T @ h / len(h) * net.head.weight).sum(0)
    with torch.no_grad():
        net.head.weight.mul_(1 - lowest(score.detach(), s.share))


def fine_pruning(net: Net, clean: Clean, s: Settings) -> None:
    h, _ = features(net, clean.fit)
    keep = 1 - lowest(h.abs().mean(0), s.share)

    def cut() -> None:
        with torch.no_grad():
            net.head.weight.mul_(keep)

    cut()
    sgd(net, clean, s, lambda x, y: F.cross_entropy(net(x), y), cut)


def wiper(net: Net, clean: Clean, s: Settings) -> None:
    """Benign salience from the gradient that trains; adaptive regularisation of the lowest columns."""
    weight = net.head.weight
    total = torch.zeros_like(weight)
    for images, labels in zip(clean.fit.images.split(256), clean.fit.labels.split(256), strict=True):
        loss = F.cross_entropy(net(images.float() / 255), labels, reduction="sum")
        total += torch.autograd.grad(loss, weight)[0]
    score = -(total / len(clean.fit) * weight.detach()).sum(0)
    optimiser = torch.optim.SGD(net.parameters(), lr=s.lr, momentum=s.momentum)
    for epoch in range(s.epochs):
        share = s.beta * (1 - epoch / s.epochs)
        chosen = lowest(score, share)
        for x, y in batches(clean.fit, s):
            optimiser.zero_grad()
            torch.autograd.backward(F.cross_entropy(net(x), y))
            with torch.no_grad():
                assert weight.grad is not None
                score = s.eta * score - (1 - s.eta) * (weight.grad * weight).sum(0)
                weight.grad += s.alpha * chosen * weight.sign() * (weight.abs() - 1).clamp(min=0).exp()
                chosen = lowest(score, share)
            optimiser.step()
        accuracy(net, clean.select)


def kd(net: Net, clean: Clean, s: Settings) -> None:
    """A student initialised anew, each norm set to mean 0 and variance 1 on one batch."""
    teacher = copy.deepcopy(net).requires_grad_(False)
    x = clean.fit.images[:256].float() / 255
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
        elif isinstance(module, nn.BatchNorm2d):
            module.reset_parameters()
    nn.init.xavier_normal_(net.head.weight)
    seen: list[Tensor] = []
    for norm in [module for module in net.modules() if isinstance(module, nn.BatchNorm2d)]:
        handle = norm.register_forward_hook(lambda module, arguments, output: seen.append(output))
        with torch.no_grad():
            net(x)
            mean, deviation = seen[-1].mean((0, 2, 3)), seen[-1].std((0, 2, 3))
            norm.weight.div_(deviation)
            norm.bias.sub_(mean).div_(deviation)
        handle.remove()

    def loss(x: Tensor, y: Tensor) -> Tensor:
        with torch.no_grad():
            goal = teacher(x)
        logits = net(x)
        distilled = divergence(goal, logits, s.temperature)
        return s.hard * F.cross_entropy(logits, y) + (1 - s.hard) * distilled

    sgd(net, clean, s, loss)


def nad(net: Net, clean: Clean, s: Settings) -> None:
    """Attention maps behind the last three stages, caught by hooks."""
    teacher = copy.deepcopy(net)
    sgd(teacher, clean, s, lambda x, y: F.cross_entropy(teacher(x), y), epochs=s.teacher_epochs)
    teacher.requires_grad_(False)
    maps: dict[Net, list[Tensor]] = {teacher: [], net: []}
    for model, kept in maps.items():
        for stage in ("layer2.0", "layer3.0", "layer4.0"):
            model.network.get_submodule(stage).register_forward_hook(
                lambda module, arguments, output, kept=kept: kept.append(output)
            )

    def attention(value: Tensor) -> Tensor:
        return F.normalize(value.pow(2).sum(1).flatten(1))

    def loss(x: Tensor, y: Tensor) -> Tensor:
        for kept in maps.values():
            kept.clear()
        with torch.no_grad():
            teacher(x)
        total = F.cross_entropy(net(x), y)
        weights = (s.attention / 2, s.attention, s.attention)
        for beta, goal, found in zip(weights, maps[teacher], maps[net], strict=True):
            total = total + beta * F.mse_loss(attention(found), attention(goal))
        return total

    sgd(net, clean, s, loss)


def ft_sam(net: Net, clean: Clean, s: Settings) -> None:
    """The weights go up in place and back again."""
    optimiser = torch.optim.SGD(net.parameters(), lr=s.lr, momentum=s.momentum, weight_decay=s.weight_decay)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, s.epochs * (len(clean.fit) // s.batch))
    weights = list(net.parameters())
    for _ in range(s.epochs):
        for x, y in batches(clean.fit, s):
            slopes = torch.autograd.grad(F.cross_entropy(net(x), y, label_smoothing=s.smoothing), weights)
            with torch.no_grad():
                norm = torch.stack(
                    [(w.abs() * g).norm() for w, g in zip(weights, slopes, strict=True)]
                ).norm()
                ups = [w.pow(2) * g * (s.rho / norm) for w, g in zip(weights, slopes, strict=True)]
                for w, up in zip(weights, ups, strict=True):
                    w.add_(up)
            optimiser.zero_grad()
            torch.autograd.backward(F.cross_entropy(net(x), y, label_smoothing=s.smoothing))
            with torch.no_grad():
                for w, up in zip(weights, ups, strict=True):
                    w.sub_(up)
            optimiser.step()
            schedule.step()
        accuracy(net, clean.select)


def fst(net: Net, clean: Clean, s: Settings) -> None:
    old = net.head.weight.detach().clone()
    net.head.reset_parameters()

    def loss(x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(net(x), y) + s.alpha * (net.head.weight * old).sum()

    def after() -> None:
        with torch.no_grad():
            net.head.weight.mul_(old.norm() / net.head.weight.norm())

    sgd(net, clean, s, loss, after)


def tsbd(net: Net, clean: Clean, s: Settings) -> None:
    """Unlearn, set to 0 what changed most, fine-tune with the mean of two gradients."""
    accuracy(net, clean.select)
    copied = copy.deepcopy(net)
    forget(copied, clean, s, clean.select)
    kernels = [
        (old.weight, (new.weight - old.weight).detach().abs().flatten(1))
        for old, new in zip(net.modules(), copied.modules(), strict=True)
        if isinstance(old, nn.Conv2d) and isinstance(new, nn.Conv2d)
    ]
    sums = torch.cat([change.sum(1) for _, change in kernels])
    chosen = torch.zeros(len(sums), dtype=torch.bool)
    chosen[sums.topk(round(s.share * len(sums))).indices] = True
    with torch.no_grad():
        rows = chosen.split([len(change) for _, change in kernels])
        for (kernel, change), row in zip(kernels, rows, strict=True):
            top = change.topk(round(s.weight_share * change.shape[1]), dim=1).indices
            gone = torch.zeros_like(change).scatter(1, top, 1.0) * row[:, None]
            kernel.mul_((1 - gone).reshape(kernel.shape))
    accuracy(net, clean.select)
    weights = list(net.parameters())
    optimiser = torch.optim.SGD(weights, lr=s.lr, momentum=s.momentum, weight_decay=s.weight_decay)
    steps = len(clean.fit) // s.batch
    epochs = max(s.epochs, math.ceil(s.min_steps / steps))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, epochs * steps)
    for _ in range(epochs):
        for x, y in batches(clean.fit, s):
            first = torch.autograd.grad(F.cross_entropy(net(x), y), weights)
            with torch.no_grad():
                scale = s.rho / torch.stack([g.norm() for g in first]).norm()
                for w, g in zip(weights, first, strict=True):
                    w.add_(g, alpha=float(scale))
            optimiser.zero_grad()
            torch.autograd.backward(F.cross_entropy(net(x), y))
            with torch.no_grad():
                for w, g in zip(weights, first, strict=True):
                    w.sub_(g, alpha=float(scale))
                    assert w.grad is not None
                    w.grad.mul_(s.alpha).add_(g, alpha=1 - s.alpha)
            nn.utils.clip_grad_norm_(weights, s.clip)
            optimiser.step()
            schedule.step()
        accuracy(net, clean.select)


def lmr(net: Net, clean: Clean, s: Settings) -> None:
    """A copy unlearns with batch norm in training mode; then the network itself, batch norm frozen."""
    copied = copy.deepcopy(net)
    forget(copied, clean, s, clean.fit, live=True)
    target = int(features(copied, clean.fit)[1].log_softmax(1).mean(0).argmax())

    before = net.head.weight.detach().clone()
    optimiser = torch.optim.SGD(net.parameters(), lr=s.lr, momentum=s.momentum)
    for _ in range(s.unlearn_epochs):
        hits = seen = 0
        for x, y in batches(clean.fit, s):
            logits = net(x)
            own = y == target
            hits += int((logits.argmax(1) == y)[own].sum())
            seen += int(own.sum())
            z, labels = logits[~own], y[~own]
            without = z.clone()
            without[:, target] = -torch.inf
            rise = z[:, target] - without.amax(1) + s.suppression_margin
            right = z.gather(1, labels[:, None])
            lack = z.scatter(1, labels[:, None], -torch.inf).amax(1) - right[:, 0] + s.retention_margin
            loss = F.cross_entropy(z, labels) + s.suppression * rise.relu().mean()
            optimiser.zero_grad()
            torch.autograd.backward(loss + s.retention * lack.relu().mean())
            nn.utils.clip_grad_norm_(net.parameters(), s.clip)
            optimiser.step()
        if hits / max(1, seen) <= 1 / net.head.out_features:
            break
    keep = 1 - lowest(-(net.head.weight - before)[target].detach().abs(), s.share)

    @torch.no_grad()
    def cut() -> None:
        net.head.weight.mul_(keep)

    cut()
    sgd(net, clean, s, lambda x, y: F.cross_entropy(net(x), y), cut)


def ai_lancet(net: Net, clean: Clean, s: Settings, triggered: Part) -> None:
    """Masks on triggered images, units that tell them apart, and fine-tuning of these units' weights alone."""
    net.requires_grad_(False)
    x = triggered.images.float() / 255
    reached = net(x).argmax(1)
    others = [int((clean.fit.labels != target).nonzero()[0]) for target in reached]
    cover = clean.fit.images[others].float() / 255
    free = torch.full((len(x), 1, *x.shape[2:]), 2.0, requires_grad=True)
    best = torch.ones_like(free)
    optimiser = torch.optim.Adam([free], lr=0.2)
    for _ in range(100):
        soft, hard = free.sigmoid(), (free.detach() > 0).float()
        mask = hard + soft - soft.detach()
        logits = net(x * (1 - mask) + cover * mask)
        own = logits.gather(1, reached[:, None])[:, 0]
        other = logits.scatter(1, reached[:, None], -torch.inf).amax(1)
        better = (own < other) & (hard.sum((1, 2, 3)) < best.sum((1, 2, 3)))
        best = torch.where(better[:, None, None, None], hard, best).detach()
        optimiser.zero_grad()
        torch.autograd.backward((own - other + 1).relu().sum() + 10 * mask.mean((1, 2, 3)).sum())
        optimiser.step()
    restored = x * (1 - best) + cover * best
    with torch.no_grad():
        labels = net(restored).argmax(1)
    freed = labels != reached
    x, restored, labels = x[freed], restored[freed], labels[freed]
    block = net.network.get_submodule("layer4.0")
    norms = [block.bn2, block.shortcut[1]]
    seen: list[Tensor] = []
    handles = [norm.register_forward_hook(lambda m, a, y: seen.append(y.mean((2, 3)))) for norm in norms]
    found = []
    with torch.no_grad():
        for images in (x, restored, clean.fit.images[:256].float() / 255):
            seen.clear()
            for part in images.split(128):
                net(part)
                seen.append(net.h)
            found.append([torch.cat(seen[n::3]) for n in range(3)])
    for handle in handles:
        handle.remove()
    scores = [(a - b).mean(0).abs() / (c.std(0) + 1e-6) for a, b, c in zip(*found, strict=True)]
    located = [1 - lowest(score, 1 - s.share) for score in scores]
    masks = {net.head.weight: located[2][None]}
    for norm, mask in zip(norms, located, strict=False):
        masks |= {norm.weight: mask, norm.bias: mask}
    for weight in masks:
        weight.requires_grad_(True)

    def loss(images: Tensor, y: Tensor) -> Tensor:
        rows = torch.randint(len(x), (len(images),))
        logits = net(torch.cat([images, x[rows]]))
        return F.cross_entropy(logits[: len(y)], y) + F.cross_entropy(logits[len(y) :], labels[rows])

    before = {weight: weight.detach().clone() for weight in masks}

    def hold() -> None:
        with torch.no_grad():
            for weight, mask in masks.items():
                weight.copy_(torch.where(mask > 0, weight, before[weight]))

    sgd(net, clean, s, loss, hold)
