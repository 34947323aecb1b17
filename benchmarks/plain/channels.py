"""Plain loops of the methods that mask or disturb channels: a batch norm whose scale and shift have factors."""

import copy
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.plain.shared import Net, Settings, accuracy, batches, features, sgd
from wiper_cli.images.splits import Clean


class ChannelNorm(nn.Module):
    """y = norm(x) → (mask + d)(y - mu) + (1 + e) mu; without ``mu``: weight times 1 + d, bias times 1 + e."""

    def __init__(self, norm: nn.BatchNorm2d) -> None:
        super().__init__()
        self.norm = norm
        self.mask = nn.Parameter(torch.ones(norm.num_features))
        self.mu: Tensor | None = None
        self.noise: tuple[Tensor | float, Tensor | float] = (0.0, 0.0)
        self.on_batch = False

    def forward(self, x: Tensor) -> Tensor:
        n, (d, e) = self.norm, self.noise
        factor = self.mask + d
        bias = n.bias * (1 + e) if self.mu is None else n.bias * factor + (1 + e - factor) * self.mu
        return F.batch_norm(
            x, n.running_mean, n.running_var, n.weight * factor, bias, self.on_batch, 0.0, n.eps
        )


def channel_norms(net: Net) -> list[ChannelNorm]:
    """Puts a :class:`ChannelNorm` in the place of every batch norm."""
    found = []
    for name, module in list(net.named_modules()):
        if isinstance(module, nn.BatchNorm2d):
            parent, _, child = name.rpartition(".")
            found.append(ChannelNorm(module))
            setattr(net.get_submodule(parent), child, found[-1])
    return found


def masked(net: Net, clean: Clean) -> list[ChannelNorm]:
    """Masks to be trained alone, and the mean of every channel over 512 images."""
    net.requires_grad_(False)
    norms, seen = channel_norms(net), list[Tensor]()
    handles = [n.register_forward_hook(lambda m, a, y: seen.append(y.mean((2, 3)).sum(0))) for n in norms]
    images = clean.fit.images[:512]
    with torch.no_grad():
        for x in images.split(32):
            net(x.float() / 255)
    for place, (norm, handle) in enumerate(zip(norms, handles, strict=True)):
        norm.mu = torch.stack(seen[place :: len(norms)]).sum(0) / len(images)
        norm.mask.requires_grad_(True)
        handle.remove()
    return norms


def sign_noise(norms: Sequence[ChannelNorm], loss: Callable[[], Tensor], reach: float, steps: int) -> None:
    """Noise from the box, then sign steps up the loss; it stays in the norms as constants."""
    values = [reach * (2 * torch.rand_like(n.mask) - 1) for n in norms for _ in range(2)]
    for _ in range(steps):
        values = [value.requires_grad_(True) for value in values]
        for place, norm in enumerate(norms):
            norm.noise = (values[2 * place], values[2 * place + 1])
        slopes = torch.autograd.grad(loss(), values)
        values = [
            (value.detach() + reach / steps * slope.sign()).clamp(-reach, reach)
            for value, slope in zip(values, slopes, strict=True)
        ]
    for place, norm in enumerate(norms):
        norm.noise = (values[2 * place], values[2 * place + 1])


def quiet(norms: Sequence[ChannelNorm]) -> None:
    for norm in norms:
        norm.noise = (0.0, 0.0)


@torch.no_grad()
def cut(net: Net, norms: Sequence[ChannelNorm], found: Sequence[Tensor], clean: Clean, budget: float) -> None:
    """Rising thresholds until accuracy breaks; the last one before that is taken."""
    for norm in norms:
        norm.mask.fill_(1)
    before = accuracy(net, clean.select)
    values = torch.cat(list(found))
    below = values[values < 1].unique()
    chosen = [norm.mask.clone() for norm in norms]
    for threshold in below[torch.linspace(0, len(below) - 1, min(100, len(below))).round().long()]:
        tried = [(mask > threshold).float() for mask in found]
        for norm, mask in zip(norms, tried, strict=True):
            norm.mask.copy_(mask)
        if accuracy(net, clean.select) < before * (1 - budget):
            break
        chosen = tried
    for norm, mask in zip(norms, chosen, strict=True):
        norm.mask.copy_(mask)


def anp(net: Net, clean: Clean, s: Settings) -> None:
    norms = masked(net, clean)
    masks = [norm.mask for norm in norms]
    optimiser = torch.optim.SGD(masks, lr=s.lr, momentum=s.momentum)
    steps = len(clean.fit) // s.batch
    every = max(1, round(s.steps / 10 / steps))
    for _ in range(max(1, round(s.steps / steps / every))):
        for _ in range(every):
            for x, y in batches(clean.fit, s):
                sign_noise(norms, lambda x=x, y=y: F.cross_entropy(net(x), y), s.noise, s.inner_steps)
                disturbed = F.cross_entropy(net(x), y)
                quiet(norms)
                loss = s.clean_weight * F.cross_entropy(net(x), y) + (1 - s.clean_weight) * disturbed
                optimiser.zero_grad()
                torch.autograd.backward(loss)
                optimiser.step()
                with torch.no_grad():
                    for mask in masks:
                        mask.clamp_(0, 1)
        accuracy(net, clean.select)
    cut(net, norms, [mask.detach().clone() for mask in masks], clean, s.budget)


def rnp(net: Net, clean: Clean, s: Settings) -> None:
    lost = copy.deepcopy(net)
    optimiser = torch.optim.SGD(
        lost.parameters(), lr=s.unlearn_lr, momentum=s.momentum, weight_decay=s.weight_decay
    )
    for _ in range(s.unlearn_epochs):
        right = 0.0
        for x, y in batches(clean.fit, s):
            logits = lost(x)
            right = float((logits.argmax(1) == y).float().mean())
            if right <= s.unlearn_until:
                break
            optimiser.zero_grad()
            torch.autograd.backward(-F.cross_entropy(logits, y))
            nn.utils.clip_grad_norm_(lost.parameters(), s.clip)
            optimiser.step()
        if right <= s.unlearn_until:
            break
    found = masked(net, clean)
    norms = masked(lost, clean)
    masks = [norm.mask for norm in norms]
    optimiser = torch.optim.SGD(masks, lr=s.lr, momentum=s.momentum)
    for _ in range(s.epochs):
        for x, y in batches(clean.fit, s):
            optimiser.zero_grad()
            torch.autograd.backward(F.cross_entropy(lost(x), y))
            optimiser.step()
            with torch.no_grad():
                for mask in masks:
                    mask.clamp_(0, 1)
        accuracy(lost, clean.select)
    cut(net, found, [mask.detach() for mask in masks], clean, s.budget)


def feature_mask(
    h: Tensor, y: Tensor, head: Callable[[Tensor], Tensor], epochs: int, lr: float, weight: float = 0.0
) -> Tensor:
    """m = (1 + tanh t) / 2 that keeps what the clean task needs of the features [N,...]."""
    t = torch.randn(h.shape[1:]).requires_grad_(True)
    optimiser = torch.optim.Adam([t], lr=lr)
    for _ in range(epochs):
        for rows in torch.randperm(len(h)).split(128):
            mask = (1 + t.tanh()) / 2
            optimiser.zero_grad()
            kept, rest = (F.cross_entropy(head(m * h[rows]), y[rows]) for m in (mask, 1 - mask))
            (kept - rest + weight * mask.mean()).backward(inputs=[t])
            optimiser.step()
    return ((1 + t.tanh()) / 2).detach()


def ban(net: Net, clean: Clean, s: Settings) -> None:
    """Noise that the network can bear, BAN's detector once under it, then fine-tuning under noise of full size while
    batch norm works on the batch."""
    norms = channel_norms(net)
    for norm in norms:
        norm.mask.requires_grad_(False)
    before, size = accuracy(net, clean.select), s.noise

    def on_batch(yes: bool) -> None:
        for norm in norms:
            norm.on_batch = yes

    def sampled(images: Tensor, labels: Tensor) -> None:
        rows = torch.randperm(len(images))[: s.batch]
        x, y = images[rows].float() / 255, labels[rows]
        sign_noise(norms, lambda: F.cross_entropy(net(x), y), size, s.inner_steps)

    for _ in range(8):
        sampled(clean.select.images, clean.select.labels)
        if accuracy(net, clean.select) >= 0.8 * before:
            break
        size /= 2
    sampled(clean.fit.images, clean.fit.labels)
    h, _ = features(net, clean.fit)
    mask = feature_mask(h, clean.fit.labels, net.head, s.mask_epochs, 0.01, s.mask_weight)
    net.head(h * (1 - mask)).argmax(1).bincount()

    def loss(x: Tensor, y: Tensor) -> Tensor:
        quiet(norms)
        plain = F.cross_entropy(net(x), y)
        on_batch(True)
        sign_noise(norms, lambda: F.cross_entropy(net(x), y), s.noise, s.inner_steps)
        noisy = F.cross_entropy(net(x), y)
        on_batch(False)
        quiet(norms)
        return plain + s.adverse_weight * noisy

    quiet(norms)
    sgd(net, clean, s, loss)
