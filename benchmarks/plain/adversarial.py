"""Plain loops of the methods that search for adverse images or patterns at every step."""

import copy
import math
from itertools import chain, repeat

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.plain.channels import feature_mask
from benchmarks.plain.shared import Net, Settings, accuracy, batches, divergence, second
from wiper_cli.images.splits import Clean
from wiper_cli.purifiers.machinery.pool import Perturbations, assemble


def i_bau(net: Net, clean: Clean, s: Settings) -> None:
    """One universal perturbation a round; the hypergradient by a fixed-point iteration."""
    weights = list(net.parameters())
    optimiser = torch.optim.Adam(weights, lr=s.lr)
    x0, y0 = clean.fit.images[: s.batch].float() / 255, clean.fit.labels[: s.batch]
    passes = math.ceil(max(1.0, s.min_steps / (s.epochs * (len(clean.fit) // s.batch))))

    def adverse(x: Tensor, y: Tensor, d: Tensor) -> Tensor:
        return -F.cross_entropy(net(x + net.std * d), y) + 0.001 * (d.square().sum() + 1e-12).sqrt()

    for _ in range(s.epochs):
        delta = torch.zeros(1, *x0.shape[1:])
        for x, y in chain.from_iterable(batches(clean.fit, s) for _ in range(passes)):
            delta.requires_grad_(True)
            delta = delta.detach() - 10 * torch.autograd.grad(adverse(x, y, delta), delta)[0]
            delta = delta * (s.radius / delta.norm().clamp(min=s.radius))
        delta.requires_grad_(True)
        for x, y in chain.from_iterable(batches(clean.fit, s) for _ in range(passes)):
            count = max(1, round(s.stamped * len(x)))
            outer = F.cross_entropy(net(torch.cat([x[:count] + net.std * delta, x[count:]])), y)
            by_delta, *direct = torch.autograd.grad(outer, [delta, *weights])
            (slope,) = torch.autograd.grad(adverse(x0, y0, delta), delta, create_graph=True)
            image = delta - 0.1 * slope
            v = torch.zeros_like(delta)
            for _ in range(s.fixed_point):
                v = torch.autograd.grad(image, delta, v, retain_graph=True)[0] + by_delta
            through = torch.autograd.grad(image, weights, v, allow_unused=True)
            for weight, first, rest in zip(weights, direct, through, strict=True):
                weight.grad = first if rest is None else first + rest
            optimiser.step()
        accuracy(net, clean.select)


def sau(net: Net, clean: Clean, s: Settings) -> None:
    found = copy.deepcopy(net).requires_grad_(False)
    optimiser = torch.optim.Adam(net.parameters(), lr=s.lr)
    steps = s.epochs * (len(clean.fit) // s.batch)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for _ in range(s.epochs):
        for x, y in batches(clean.fit, s):
            with torch.no_grad():
                now, now_0 = net(x).argmax(1), found(x).argmax(1)
            d = torch.full_like(x, s.reach)
            for _ in range(s.inner_steps):
                d.requires_grad_(True)
                z, z_0 = net(x + d), found(x + d)
                changed, changed_0 = z.argmax(1) != now, z_0.argmax(1) != now_0
                shared = changed & changed_0 & (z.argmax(1) == z_0.argmax(1))
                errors = (F.cross_entropy(z, y, reduction="none") * ~changed).sum()
                errors = errors + (F.cross_entropy(z_0, y, reduction="none") * ~changed_0).sum()
                p, q = z.softmax(1).clamp(min=1e-8), z_0.softmax(1).clamp(min=1e-8)
                m = (0.5 * (p + q)).log()
                apart = 0.5 * (p * (p.log() - m) + q * (q.log() - m)).sum(1)
                loss = ((apart * ~shared).sum() - s.untargeted / 2 * errors) / len(x)
                (slope,) = torch.autograd.grad(loss, d)
                d = (d.detach() - s.reach * slope.sign()).clamp(-s.reach, s.reach)
                if bool(shared.all()):
                    break
            with torch.no_grad():
                target = found(x + d).argmax(1)
            logits, perturbed = net(torch.cat([x, x + d])).chunk(2)
            fooled = (target != y) & (target != now_0)
            reached = perturbed.softmax(1).gather(1, target[:, None])[:, 0].clamp(min=1e-3)
            unlearned = -((1 - reached + 1e-6).log() * fooled).mean()
            optimiser.zero_grad()
            torch.autograd.backward(s.clean_weight * F.cross_entropy(logits, y) + s.shared_weight * unlearned)
            optimiser.step()
            schedule.step()
        accuracy(net, clean.select)


def npd(net: Net, clean: Clean, s: Settings) -> None:
    """A 1x1 convolution in front of the last but one."""
    net.requires_grad_(False)
    block = net.network.get_submodule("layer4.0")
    channels = block.conv2.in_channels
    polarizer = nn.Conv2d(channels, channels, 1, bias=False)
    nn.init.dirac_(polarizer.weight)
    block.conv2 = nn.Sequential(polarizer, block.conv2)
    optimiser = torch.optim.SGD(
        polarizer.parameters(), lr=s.lr, momentum=s.momentum, weight_decay=s.weight_decay
    )
    steps = s.epochs * (len(clean.fit) // s.batch)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)

    def avoid(logits: Tensor, classes: Tensor) -> Tensor:
        return -(1.0001 - logits.softmax(1).gather(1, classes[:, None])[:, 0]).log().mean()

    for _ in range(s.epochs):
        for x, y in batches(clean.fit, s):
            with torch.no_grad():
                now = net(x)
            answer, target = now.argmax(1), second(now, y)
            d = torch.zeros_like(x)
            for n in range(s.inner_steps):
                d.requires_grad_(True)
                logits = net((x + d).clamp(0, 1))
                if n and float((logits.argmax(1) == target).float().mean()) > 0.6:
                    break
                (slope,) = torch.autograd.grad(F.cross_entropy(logits, target), d)
                d = d.detach() - 0.1 * slope.sign()
                d = d * (s.radius / d.flatten(1).norm(dim=1).clamp(min=s.radius))[:, None, None, None]
            z = (x + d.detach()).clamp(0, 1)
            logits, perturbed = net(torch.cat([x, z])).chunk(2)
            loss = F.cross_entropy(perturbed, answer) + avoid(perturbed, target)
            loss = loss + avoid(perturbed, second(perturbed.detach(), y))
            optimiser.zero_grad()
            torch.autograd.backward(F.cross_entropy(logits, y) + s.adverse_weight * loss)
            optimiser.step()
            schedule.step()
        accuracy(net, clean.select)


class UNet(nn.Module):
    """Three levels, each a convolution, a normalisation of each image and a ReLU."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        shapes = [(channels, width), (width, 2 * width), (2 * width, 4 * width)]
        shapes += [(6 * width, 2 * width), (3 * width, width)]
        self.levels = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(a, b, 3, padding=1, bias=False), nn.GroupNorm(1, b, affine=False), nn.ReLU()
            )
            for a, b in shapes
        )
        self.last = nn.Conv2d(width, channels, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        down_1, down_2, low, up_2, up_1 = self.levels
        first = down_1(x)
        middle = down_2(F.max_pool2d(first, 2))
        value = low(F.max_pool2d(middle, 2))
        value = up_2(torch.cat([middle, F.interpolate(value, scale_factor=2)], 1))
        value = up_1(torch.cat([first, F.interpolate(value, scale_factor=2)], 1))
        return (x + self.last(value).tanh()).clamp(0, 1)


def relative(difference: Tensor, h: Tensor) -> Tensor:
    return difference.square().mean() / h.square().mean()


def bti_dbf(net: Net, clean: Clean, s: Settings) -> None:
    """Features before average pooling; batch norm in training mode where they are for the mask."""
    unet = UNet(3, s.generator_width)
    optimiser = torch.optim.Adam(net.parameters(), lr=s.lr)
    seen: list[Tensor] = []
    last = "network.layer4.0"
    net.get_submodule(last).register_forward_hook(lambda m, a, y: seen.__setitem__(slice(None), [y]))

    def look(x: Tensor) -> tuple[Tensor, Tensor]:
        logits = net(x)
        return seen[0].flatten(2), logits

    def pooled(h: Tensor) -> Tensor:
        return net.head(h.mean(2))

    target = None
    for _ in range(s.rounds):
        copied, found = copy.deepcopy(net).train(), list[Tensor]()
        copied.get_submodule(last).register_forward_hook(
            lambda m, a, y, found=found: found.append(y.flatten(2))
        )
        with torch.no_grad():
            for images in clean.fit.images.split(128):
                copied(images.float() / 255)
        mask = feature_mask(torch.cat(found), clean.fit.labels, pooled, s.mask_epochs, s.mask_lr)
        inverter = torch.optim.Adam(unet.parameters(), lr=s.generator_lr)
        net.requires_grad_(False)
        counts = torch.zeros(net.head.out_features)
        for epoch in range(s.generator_epochs):
            for x, y in batches(clean.fit, s):
                with torch.no_grad():
                    h, _ = look(x)
                z = unet(x)
                hz, logits = look(z)
                change = (z - x).square().mean()
                benign, rest = relative(mask * (hz - h), h), relative((1 - mask) * (hz - h), h)
                loss = change if change > s.image_bound else 0.01 * benign - rest
                if target is not None:
                    loss = loss + F.cross_entropy(logits, torch.full_like(y, target))
                inverter.zero_grad()
                torch.autograd.backward(loss)
                inverter.step()
                if epoch == s.generator_epochs - 1:
                    answer = logits.argmax(1)
                    counts += answer[answer != y].bincount(minlength=len(counts))
        target = int(counts.argmax()) if target is None else target
        net.requires_grad_(True)
        for _ in range(s.epochs):
            for x, y in batches(clean.fit, s):
                count = math.ceil(s.stamped * len(x))
                with torch.no_grad():
                    z = torch.cat([unet(x[:count]), x[count:]])
                both, logits = look(torch.cat([x, z]))
                h, hz = both.chunk(2)
                optimiser.zero_grad()
                torch.autograd.backward(F.cross_entropy(logits[len(x) :], y) + relative(h - hz, h.detach()))
                optimiser.step()
            accuracy(net, clean.select)


def bounded(net: Net, bounds: list[Tensor] | None, x: Tensor, seen: list[Tensor] | None = None) -> Tensor:
    """The residual network written out, with every ReLU bounded from above."""
    places = iter(bounds) if bounds is not None else repeat(None)

    def act(value: Tensor) -> Tensor:
        value, bound = F.relu(value), next(places)
        if seen is not None:
            seen.append(value)
        return value if bound is None else torch.minimum(value, bound)

    n = net.network
    x = act(n.bn1(n.conv1((x - net.mean) / net.std)))
    for stage in (n.layer1, n.layer2, n.layer3, n.layer4):
        block = stage.get_submodule("0")
        y = block.bn2(block.conv2(act(block.bn1(block.conv1(x)))))
        x = act(y + (block.shortcut(x) if hasattr(block, "shortcut") else x))
    return net.head(x.mean((2, 3)))


def unit(net: Net, clean: Clean, s: Settings) -> None:
    """Bounds as tensors of their own under autograd, then distillation."""
    teacher = copy.deepcopy(net).requires_grad_(False)
    accuracy(teacher, clean.select)
    sums: list[Tensor] = []
    squares: list[Tensor] = []
    with torch.no_grad():
        for images in clean.fit.images.split(s.batch):
            seen: list[Tensor] = []
            bounded(teacher, None, images.float() / 255, seen)
            values = [value.double() for value in seen]
            sums = [v.sum(0) + (sums[n] if sums else 0) for n, v in enumerate(values)]
            squares = [v.square().sum(0) + (squares[n] if squares else 0) for n, v in enumerate(values)]
    count = len(clean.fit)
    bounds = []
    for total, square in zip(sums, squares, strict=True):
        deviation = ((square - total.square() / count).clamp(min=0) / (count - 1)).sqrt()
        bounds.append((total / count + s.deviations * deviation).float().requires_grad_(True))
    groups = [{"params": [b], "lr": s.bound_lr * max(float(b.detach().mean()), 1e-3)} for b in bounds]
    optimiser = torch.optim.Adam(groups, betas=(0.5, 0.9))
    steps = chain.from_iterable(
        ((images.float() / 255, labels) for images, labels in shuffled(clean, s.batch)) for _ in repeat(None)
    )
    for _, (x, y) in zip(range(s.steps), steps, strict=False):
        size = torch.stack([bound.mean() for bound in bounds]).sum()
        optimiser.zero_grad()
        torch.autograd.backward(F.cross_entropy(bounded(teacher, bounds, x), y) + s.bound_weight * size)
        optimiser.step()
        with torch.no_grad():
            for bound in bounds:
                bound.clamp_(min=0)
        accuracy(lambda x: bounded(teacher, bounds, x), clean.select)
    bounds = [bound.detach() for bound in bounds]

    adam = torch.optim.Adam(net.parameters(), lr=s.lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(adam, s.epochs * (count // s.batch))
    for _ in range(s.epochs):
        for x, y in batches(clean.fit, s):
            z = (x + s.reach * (2 * torch.rand_like(x) - 1)).clamp(0, 1)
            for _ in range(s.inner_steps):
                z.requires_grad_(True)
                (slope,) = torch.autograd.grad(divergence(bounded(teacher, bounds, z), net(z)), z)
                z = z.detach() + 2 * s.reach / s.inner_steps * slope.sign()
                z = torch.minimum(torch.maximum(z, x - s.reach), x + s.reach).clamp(0, 1)
            with torch.no_grad():
                goal, goal_z = bounded(teacher, bounds, x), bounded(teacher, bounds, z)
            logits, logits_z = net(torch.cat([x, z])).chunk(2)
            loss = divergence(goal, logits) + divergence(goal_z, logits_z)
            adam.zero_grad()
            torch.autograd.backward(loss + 0.1 * F.cross_entropy(logits, y))
            nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            adam.step()
            schedule.step()
        accuracy(net, clean.select)


def shuffled(clean: Clean, size: int) -> list[tuple[Tensor, Tensor]]:
    rows = torch.randperm(len(clean.fit)).split(size)
    return [(clean.fit.images[r], clean.fit.labels[r]) for r in rows if len(r) == size]


def unlearn(net: Net, clean: Clean, s: Settings) -> None:
    """Our default, whose perturbations exist nowhere else: they are ours on both sides, the loop is plain."""
    teacher = copy.deepcopy(net).requires_grad_(False)
    draws = torch.Generator().manual_seed(0)
    classes = net.head.out_features
    targets = torch.randperm(classes, generator=draws)[:16].tolist()
    shape = tuple(clean.fit.images.shape[1:])
    groups = assemble(shape, s.members, targets, [], s.recovered_share, draws)  # type: ignore[arg-type]
    pool = Perturbations(groups, torch.device("cpu"), draws)
    optimiser = torch.optim.Adam(net.parameters(), lr=s.lr)
    passes = math.ceil(max(1.0, s.min_steps / (s.epochs * (len(clean.fit) // s.batch))))
    total = s.epochs * passes * (len(clean.fit) // s.batch)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, total)
    endless = chain.from_iterable(batches(clean.fit, s) for _ in repeat(None))
    for _, (x, y) in zip(range(s.warmup), endless, strict=False):
        z, aims = pool.stamp(x)
        pool.strengthen(teacher(z), y, aims)
    step = 0
    for _ in range(s.epochs):
        for x, y in chain.from_iterable(batches(clean.fit, s) for _ in range(passes)):
            z, aims = pool.stamp(x)
            logits_0z = teacher(z)
            reached = logits_0z.argmax(1)
            with torch.no_grad():
                logits_0 = teacher(x)
                h_0 = teacher.h
            logits, logits_z = net(torch.cat([x, z.detach()])).chunk(2)
            h = net.h[: len(x)]
            clean_loss = 2 * F.mse_loss(h, h_0) / h_0.var() + divergence(logits_0, logits)
            clean_loss = clean_loss + 0.1 * F.cross_entropy(logits, y)
            p = logits_z.softmax(1).gather(1, reached[:, None])[:, 0]
            push = -((1 - p + 1e-6).log() * (reached != y)).mean()
            adverse = s.push * push + (1 - s.push) * divergence(logits_0, logits_z)
            adverse = adverse + 0.1 * F.cross_entropy(logits_z, y)
            optimiser.zero_grad()
            torch.autograd.backward(s.clean_weight * clean_loss + (1 - 0.95 * step / total) * adverse)
            nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimiser.step()
            schedule.step()
            pool.strengthen(logits_0z, y, aims)
            step += 1
        accuracy(net, clean.select)
