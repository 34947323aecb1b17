"""The model together with its own preprocessing: images in 0..1 in, features and logits out.

Detectors, purifiers and verification work in pixel space and see the model through this class only.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor, nn

from formats import Edit, HeadTap, Model, apply_edit, head_values

#: Pixels that a CPU is asked about at once, as many as 512 images of 32x32 have: where the maps of a layer outgrow what
#: the allocator keeps, each costs its pages anew (``memory_layout`` has what that comes to).
AT_ONCE = 512 * 32 * 32
#: Side in pixels from which a CPU is asked with channels last: there 1.0 to 1.4 times as fast (``memory_layout``).
LARGE = 96
#: Images of a trial of bfloat16, and how many of them must get the same class so as in float32.
TRIED, ALIKE = 16, 15


class PixelNetwork(nn.Module):
    """``(x - mean) / std`` in front of a network; ``x`` float32 [N,C,H,W] in 0..1. ``bgr``: blue goes first before."""

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, mean: Tensor, std: Tensor, bgr: bool = False) -> None:
        super().__init__()
        self.network = network
        self.bgr = bgr
        self.layout: torch.memory_format | None = None
        #: Whether :meth:`Classifier.rough` takes bfloat16, without and with a gradient to the images.
        self.low = (False, False)
        self.register_buffer("mean", mean.reshape(1, -1, 1, 1))
        self.register_buffer("std", std.reshape(1, -1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = x.flip(1) if self.bgr else x
        x = (x - self.mean) / self.std
        logits: Tensor = self.network(x if self.layout is None else x.contiguous(memory_format=self.layout))
        return logits

    @property
    def narrow(self) -> bool:
        """Whether it may stride over fewer than 16 channels with one weight each, where the backward pass with channels
        last writes outside its memory (oneDNN issue 6035)."""
        shapes = self._kernels
        return not shapes or any(shape[2:] == (1, 1) and shape[1] < 16 for shape in shapes)

    @property
    def dense(self) -> bool:
        """Whether most weights are convolutions, and all but the first of 16 channels and more each: of the others,
        depthwise ones and attention, the backward pass may be slower in bfloat16 (``memory_layout`` measures it)."""
        shapes, weights = self._kernels, sum(value.numel() for value in self.network.parameters())
        return 2 * sum(shape.numel() for shape in shapes) > weights and all(
            shape[1] >= 16 for shape in shapes[1:]
        )

    @property
    def _kernels(self) -> list[torch.Size]:
        return [value.shape for value in self.network.parameters() if value.dim() == 4]


class Classifier:
    """A :class:`formats.Model` on images in 0..1.

    ``network``: a :class:`PixelNetwork` over the model's own network (never train it: call :meth:`copy`),
    or ``None`` when the file was opened head-only. ``runtime``: what reports call whatever answers.
    """

    runtime = "the opened network"

    def __init__(
        self,
        model: Model,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        device: torch.device | str = "cpu",
        network: PixelNetwork | None = None,
    ) -> None:
        self.model = model
        self.mean, self.std = mean, std
        #: Images with gradients that searches hold at once; twice as many without.
        self.batch = 256
        self.device = torch.device(device)
        self._own: list[tuple[Tensor, Tensor]] = []
        self.network = network
        if network is None and model.network is not None:
            self.network = PixelNetwork(model.network, torch.tensor(mean), torch.tensor(std), model.bgr)
            self.network.to(self.device).eval()
        if self.network is not None:
            for parameter in self.network.parameters():
                parameter.requires_grad_(False)

    @property
    def classes(self) -> int:
        """Number of classes K."""
        return self.model.classes

    def copy(self) -> Classifier:
        """An independent copy whose ``network`` may be trained; shares nothing that changes."""
        if self.network is None:
            raise ValueError("a head-only model has no network to copy")
        return Classifier(self.model, self.mean, self.std, self.device, copy.deepcopy(self.network))

    def with_model(self, model: Model) -> Classifier:
        """Another model under the same preprocessing."""
        found = Classifier(replace(model, bgr=self.model.bgr), self.mean, self.std, self.device)
        found.batch = self.batch
        if found.network is not None and self.network is not None:
            found.network.layout, found.network.low = self.network.layout, self.network.low
        return found

    def lay_out(self, images: Tensor) -> None:
        """Asks with channels last from now on where ``images`` (uint8 [N,C,H,W]) are :data:`LARGE`, unless the network
        fails so. The same on every machine with a CPU: last digits hang on it."""
        network = self.network
        if network is None or not self._large(images) or network.narrow:
            return
        network.layout = torch.channels_last
        try:
            torch.autograd.backward(network(self.as_float(images[:2]).requires_grad_(True)).sum())
        except RuntimeError:  # a ``view`` somewhere
            network.layout = None

    def lower(self, images: Tensor, wanted: bool = True) -> bool:
        """Has :meth:`rough` ask in bfloat16 from now on, if ``wanted``, where ``images`` (uint8 [N,C,H,W]) are
        :data:`LARGE`, a CPU has instructions for it, and the network answers alike. Whether it does."""
        network = self.network
        if network is None:
            return False
        network.low = (False, False)
        possible = self._large(images) and not network.narrow and torch.cpu._is_avx512_bf16_supported()
        if not (wanted and possible):
            return False
        some = images[:TRIED]
        exact = self.answers(some, 4)
        network.low = (True, network.dense)
        try:
            alike = int((self.logits(some, 4, rough=True).argmax(1).cpu() == exact).sum())
            torch.autograd.backward(self.rough(self.as_float(some[:2]).requires_grad_(True)).sum())
        except RuntimeError:  # types that do not go together
            alike = 0
        if alike < min(ALIKE, len(some)):
            network.low = (False, False)
        return network.low[0]

    def _large(self, images: Tensor) -> bool:
        return self.device.type == "cpu" and min(images.shape[2:]) >= LARGE

    def with_edit(self, edit: Edit) -> Classifier:
        """The model with new weights under the same preprocessing; ours stays as it is."""
        return self.with_model(apply_edit(self.model, edit))

    def as_float(self, images: Tensor) -> Tensor:
        """uint8 or float [N,C,H,W] → float32 in 0..1 on our device."""
        images = images.to(self.device, non_blocking=True)
        return images.float() / 255 if images.dtype == torch.uint8 else images.float()

    def rough(self, x: Tensor) -> Tensor:
        """Logits float32 [N,K] of ``x`` float32 [N,C,H,W] in 0..1, differentiable, as a search may have them whose
        find is scored by :meth:`logits`: in bfloat16 where :meth:`lower` found that it serves."""
        assert self.network is not None
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.network.low[x.requires_grad]):
            logits: Tensor = self.network(x)
        return logits.float()

    @torch.no_grad()
    def logits(self, images: Tensor, batch: int = 256, rough: bool = False) -> Tensor:
        """``images`` uint8 or float in 0..1 [N,C,H,W] → logits float32 [N,K] on our device; no gradient. ``rough``: as
        :meth:`rough` has them."""
        parts = []
        for chunk in self._chunks(images, batch):
            x = self.as_float(chunk)
            if self.network is not None:
                parts.append(self.rough(x) if rough else self.network(x).float())
            else:
                parts.append(self._runtime(x)[1])
        return torch.cat(parts)

    def answers(self, images: Tensor, batch: int = 256) -> Tensor:
        """Predicted classes int64 [N] on the CPU, of images as for :meth:`logits`."""
        return self.logits(images, batch).argmax(1).cpu()

    def own(self, images: Tensor, rows: Tensor) -> Tensor:
        """Predicted classes, int64 [R] on the CPU, of ``images[rows]`` (uint8 [N,C,H,W] and int64 [R]);
        -1 where a logit is not finite. Each image of a tensor is asked about once, however many searches want to know.
        """
        known = next((found for of, found in self._own if of is images), None)
        if known is None:
            known = torch.full((len(images),), -2)
            self._own.append((images, known))
        asked = rows[known[rows] == -2]
        if len(asked):
            logits = self.logits(images[asked], min(256, 2 * self.batch))
            finite = torch.isfinite(logits).all(1)
            known[asked] = logits.argmax(1).masked_fill(~finite, -1).cpu()
        return known[rows]

    def features(self, images: Tensor, batch: int = 256) -> tuple[Tensor, Tensor]:
        """As :meth:`logits`, but (features float32 [N,D], logits float32 [N,K]); needs a head."""
        found = []
        with self.tap() as tap:
            for chunk in self._chunks(images, batch):
                x = self.as_float(chunk)
                h, z = tap(x) if tap is not None else self._runtime(x)
                found.append((h.detach().float(), z.detach().float()))
        return torch.cat([h for h, _ in found]), torch.cat([z for _, z in found])

    @contextmanager
    def tap(self) -> Iterator[HeadTap | None]:
        """A callable images in 0..1 → (features, logits), both differentiable; ``None`` when head-only.

        While it is open the head's weight requires a gradient: that is how the features are found.
        """
        if self.network is None:
            yield None
            return
        if self.model.head is None:
            raise ValueError("the model has no linear head")
        weight = self.model.named(self.network.network)[self.model.head.weight]
        before = weight.requires_grad
        weight.requires_grad_(True)
        try:
            yield HeadTap(self.network, weight, self.model.head)
        finally:
            weight.requires_grad_(before)

    def head(self) -> tuple[Tensor, Tensor]:
        """The head as (W float32 [K,D], b float32 [K]) on our device, detached; zeros where there is no bias."""
        inner = self.network.network if self.network is not None else None
        weight, bias = head_values(self.model, inner)
        return weight.to(self.device), bias.to(self.device)

    def _chunks(self, images: Tensor, batch: int) -> tuple[Tensor, ...]:
        """``images`` [N,C,H,W] in parts of at most ``batch``, on a CPU of fewer where they are large."""
        most = AT_ONCE // (images.shape[2] * images.shape[3]) if self.device.type == "cpu" else batch
        parts: tuple[Tensor, ...] = images.split(max(1, min(batch, most)))
        return parts

    def _runtime(self, x: Tensor) -> tuple[Tensor, Tensor]:
        assert self.model.runtime is not None
        mean = torch.tensor(self.mean, device=x.device).reshape(1, -1, 1, 1)
        std = torch.tensor(self.std, device=x.device).reshape(1, -1, 1, 1)
        x = x.flip(1) if self.model.bgr else x
        return self.model.runtime.features_and_logits(((x - mean) / std).cpu())


@torch.no_grad()
def correct(logits: Callable[[Tensor], Tensor], images: Tensor, labels: Tensor, batch: int = 256) -> int:
    """How many of ``images`` [N,…] ``logits`` ([n,…] → [n,K]) gives their label, ``labels`` int64 [N]."""
    return sum(
        int((logits(x).argmax(1).cpu() == y.cpu()).sum())
        for x, y in zip(images.split(batch), labels.split(batch), strict=True)
    )
