"""A model file as its serving runtime runs it, on images in 0..1."""

from dataclasses import replace

import torch
from torch import Tensor

from formats import Edit, Model, serve, write_edit
from formats.kinds import server
from wiper_cli.images.description import Numbers


def architecture(model: Model) -> str | None:
    """What a safetensors file needs to be opened again; another kind's is named by its author, who could name a Python
    file."""
    return model.architecture.name if model.kind == "safetensors" else None


class Served:
    """Asked like a :class:`wiper_cli.classifier.Classifier`; answers on the CPU, without gradients.

    ``runtime``: its name, as reports have it. ``arch``: of a safetensors file, as the user gave it.
    """

    def __init__(self, model: Model, mean: Numbers, std: Numbers, arch: str | None = None) -> None:
        self.model, self.classes = model, model.classes
        self.runtime = server(model.kind).RUNTIME
        self._mean, self._std = (torch.tensor(numbers).reshape(1, -1, 1, 1) for numbers in (mean, std))
        self._given = mean, std, arch
        self._run = serve(model.source, arch or architecture(model))

    def with_edit(self, edit: Edit) -> "Served":
        """The file that writing ``edit`` would give."""
        source, manifest = self.model.source, self.model.manifest
        written = source.rewritten(write_edit(source, manifest, edit))
        return self.with_model(replace(self.model, source=written))

    def with_model(self, model: Model) -> "Served":
        """Another file under the same preprocessing."""
        return Served(replace(model, bgr=self.model.bgr), *self._given)

    def as_float(self, images: Tensor) -> Tensor:
        """uint8 or float [N,C,H,W] → float32 in 0..1 on the CPU."""
        return images.cpu().float() / 255 if images.dtype == torch.uint8 else images.cpu().float()

    def normalised(self, images: Tensor) -> Tensor:
        """Images as for :meth:`as_float` → what the file is fed, float32."""
        x = self.as_float(images)
        return ((x.flip(1) if self.model.bgr else x) - self._mean) / self._std

    def run(self, x: Tensor) -> Tensor:
        """Normalised float32 [N,C,H,W] → logits float32 [N,K], in the caller's gradient mode and in one batch."""
        return self.model.ending.logits(self._run(x).float().flatten(1))

    @torch.no_grad()
    def logits(self, images: Tensor, batch: int = 256) -> Tensor:
        """Images as for :meth:`as_float` → logits float32 [N,K]."""
        return torch.cat([self.run(self.normalised(chunk)) for chunk in images.split(batch)])
