"""ISSBA, the paper's "SSA": a faint residual that a network makes for each image.

Li, Li, Wu, Li, He, Lyu 2021 (arXiv 2012.03816), after StegaStamp (Tancik, Mildenhall, Ng 2020, arXiv
1904.05343). T(x) = clip(x + E(x, s)): an encoder E hides the bits s in an image so that a decoder reads them
back; every poisoned image hides the same s. Both are trained here, on training images alone: first to be
read, with binary cross-entropy (BCE), then also to be unseen, with 2 L2 + 1.5 (1 - SSIM) + 1.5 BCE + cos^2,
the squared cosine between two images' residuals of one secret: without it small networks learn one pattern
for all images.

Unlike the original: SSIM (Wang et al. 2004) stands where LPIPS stood, whose weights we do not carry; cos^2 is
ours; there is no critic and no spatial transformer before the decoder; the residual is bounded by ``strength``
(tanh), since at 32x32 L2 alone hardly holds it; images are rounded to 256 levels before they are decoded, so
that what is learnt survives storing; far fewer bits than its 20 to 100, and a far shorter training at a higher
rate. With the defaults, on 3,000 images of CIFAR-10, the residual used its bound: at most 8/255, 7.8/255 rms,
SSIM 0.962; the decoder read all bits of 500 unseen images.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from triggers.errors import TriggerError
from triggers.family import Progress, Trigger, Victim, check, fitted
from triggers.networks import (
    Layers,
    UNet,
    check_size,
    check_training,
    draw,
    one_by_one,
    rounded,
    with_channels,
)
from triggers.poisoning import Poisoning

if TYPE_CHECKING:
    import torch
    from torch import Tensor

#: Weights of the second stage: the reference implementation's, its LPIPS being our STRUCTURE; SAMENESS is ours.
L2, STRUCTURE, READING, SAMENESS = 2.0, 1.5, 1.5, 1.0
#: Side of SSIM's window in pixels, and its two constants for images in 0..1.
WINDOW, C1, C2 = 7, 0.01**2, 0.03**2
BATCH = 32


@dataclass(frozen=True)
class ISSBA(Trigger):
    """``bits``: of the secret. ``strength``: largest change of a pixel, on the 0..1 scale. ``steps``: of
    training, a third of them for reading alone. ``width``: channels of the networks. ``rate``: of Adam.
    ``seed``: which secret is hidden; seeds up to 2**bits give different ones."""

    name: ClassVar[str] = "issba"
    title: ClassVar[str] = "ISSBA (SSA): a hidden message, different in every image"
    source: ClassVar[str] = "arXiv 2012.03816"
    #: The WIPER paper's 20 %; the field's protocol has 10 %.
    poisoning: ClassVar[Poisoning] = Poisoning(rate=0.2)
    quick: ClassVar[Mapping[str, Any]] = {"steps": 3, "width": 4}
    needs: ClassVar[Literal["nothing", "images", "model"]] = "images"

    bits: int = 4
    strength: float = 8 / 255
    steps: int = 400
    width: int = 8
    rate: float = 2e-3
    seed: int = 0
    #: [bits + 1, C, H, W]: the picture of each bit, and one for none, at the size of the fitted images.
    carrier: Any = fitted()
    #: Flat weights.
    encoder: Any = fitted()
    decoder: Any = fitted()

    def secret(self) -> list[float]:
        """The hidden bits, 0.0 or 1.0."""
        # An odd factor permutes the numbers below 2**bits.
        number = (self.seed * 0x9E3779B1 + 0x5A5A5A5B) % 2**self.bits
        return [float(number >> place & 1) for place in range(self.bits)]

    def stamp(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """See :class:`triggers.family.Trigger`; images of other channels than the fitted ones pass as their
        mean, those of another size get the secret's picture scaled. Refuses images under 8x8."""
        check(images)
        if self.carrier is None:
            raise TriggerError("issba is not fitted: its encoder must be trained on images first.")
        check_size(images)
        carrier = self.carrier.to(images.device).double()
        encoder = self.encoder.to(images.device).double()
        secret = carrier.new_tensor([self.secret()])
        channels = carrier.shape[1]

        def encoded(x: Tensor) -> Tensor:
            residual = self._residual(carrier, encoder, with_channels(x, channels), secret)
            return (x + with_channels(residual, x.shape[1])).clamp(0, 1)

        return one_by_one(encoded, images)

    def read(self, images: Tensor) -> Tensor:
        """Logits [N,bits] of the bits that the decoder finds in float images [N,C,H,W] in 0..1."""
        decoder = self.decoder.to(images.device, images.dtype)
        return self._decoded(decoder, with_channels(images, self.carrier.shape[1]))

    def fit(
        self,
        victim: Victim | None,
        images: Tensor,
        labels: Tensor,
        target: int,
        generator: torch.Generator,
        progress: Progress = lambda stage, done, total: None,
    ) -> Self:
        """See :class:`triggers.family.Trigger`; looks at ``images`` only."""
        import torch
        import torch.nn.functional as F

        if not (self.bits >= 1 and self.steps >= 1 and self.width >= 1 and 0 < self.strength <= 1):
            raise TriggerError("issba needs at least one bit, step and channel, and a strength in 0..1.")
        check_training(images)
        channels = images.shape[1]
        carrier = torch.randn(self.bits + 1, *images.shape[1:], generator=generator).to(images.device)
        carrier *= (self.bits + 1) ** -0.5
        encoder = self._encoder(channels).layers.initial(generator, images.device)
        decoder = self._decoder(channels).initial(generator, images.device)
        weights = [carrier.requires_grad_(), encoder.requires_grad_(), decoder.requires_grad_()]
        adam = torch.optim.Adam(weights, lr=self.rate)
        for step in range(self.steps):
            x = images[draw(images, BATCH, generator)].float() / 255
            secrets = torch.randint(2, (BATCH // 2, self.bits), generator=generator).to(x).repeat(2, 1)
            with torch.enable_grad():
                residual = self._residual(carrier, encoder, x, secrets)
                coded = x + residual
                reading = F.binary_cross_entropy_with_logits(self._decoded(decoder, rounded(coded)), secrets)
                loss = reading
                if step >= self.steps // 3:
                    loss = L2 * residual.square().mean() + STRUCTURE * (1 - ssim(coded, x).mean())
                    loss = loss + READING * reading + SAMENESS * likeness(residual)
            adam.zero_grad()
            loss.backward()
            adam.step()
            progress("encoder", step + 1, self.steps)
        return replace(self, carrier=carrier.detach(), encoder=encoder.detach(), decoder=decoder.detach())

    def _encoder(self, channels: int) -> UNet:
        return UNet(2 * channels, channels, self.width)

    def _decoder(self, channels: int) -> Layers:
        w = self.width
        return Layers(((w, channels, 3), (2 * w, w, 3), (2 * w, 2 * w, 3), (self.bits, 2 * w, 1)))

    def _residual(self, carrier: Tensor, encoder: Tensor, x: Tensor, secrets: Tensor) -> Tensor:
        """[N,C,H,W] within ``strength`` of zero, for secrets [N,bits] of 0 and 1."""
        import torch
        import torch.nn.functional as F

        picture = torch.einsum("nb,bchw->nchw", 2 * secrets - 1, carrier[:-1]) + carrier[-1]
        if picture.shape[2:] != x.shape[2:]:
            picture = F.interpolate(picture, size=x.shape[2:], mode="bilinear", align_corners=False)
        unet = self._encoder(carrier.shape[1])
        return self.strength * torch.tanh(unet(encoder, torch.cat([x - 0.5, picture], 1)))

    def _decoded(self, decoder: Tensor, x: Tensor) -> Tensor:
        import torch.nn.functional as F

        *convolutions, out = self._decoder(x.shape[1]).unpack(decoder)
        x = x - 0.5
        for layer in convolutions:
            x = F.conv2d(x, *layer, padding=1, stride=2).relu()
        return F.conv2d(x.mean((2, 3), keepdim=True), *out).flatten(1)


def likeness(residual: Tensor) -> Tensor:
    """Mean squared cosine between the first and the second half of residuals [2N,C,H,W]; a scalar in 0..1."""
    import torch.nn.functional as F

    first, second = residual.flatten(1).chunk(2)
    return F.cosine_similarity(first, second).square().mean()


def ssim(a: Tensor, b: Tensor) -> Tensor:
    """Structural similarity [N] of images [N,C,H,W] in 0..1, at least 7x7 (Wang et al. 2004, equation 13).

    The mean over channels and all 7x7 windows that lie inside, pixels of a window weighing the same.
    """
    import torch.nn.functional as F

    def mean(x: Tensor) -> Tensor:
        return F.avg_pool2d(x, WINDOW, stride=1)

    ma, mb = mean(a), mean(b)
    va, vb, cov = mean(a * a) - ma * ma, mean(b * b) - mb * mb, mean(a * b) - ma * mb
    index = (2 * ma * mb + C1) * (2 * cov + C2) / ((ma * ma + mb * mb + C1) * (va + vb + C2))
    return index.mean((1, 2, 3))
