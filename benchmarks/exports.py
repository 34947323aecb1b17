"""Networks of public libraries with untrained weights, and the files that exporters make of them."""

import io
from typing import Any

import torch
from torch import Tensor, nn

from formats.safetensors.torchvision_stub import import_torchvision


def network_of(name: str, size: int | None = None) -> tuple[nn.Module, Tensor]:
    """``library/architecture`` of torchvision or timm in eval mode, and one image that it classifies into 1000 classes.

    ``size``: side of the image in pixels, for networks that take any; by default their own. Raises ValueError for what
    is no classifier, and whatever a library raises for a size that does not fit.
    """
    models = import_torchvision().models
    library, _, architecture = name.partition("/")
    own, network = (3, 224, 224), None
    if library == "torchvision":
        sized = {"image_size": size} if size and architecture.startswith("vit") else {}
        network = models.get_model(architecture, weights=None, **sized)
        if hasattr(network, "transform_input"):
            network.transform_input = True  # as with its published weights
    else:
        import timm

        network = timm.create_model(architecture, pretrained=False, num_classes=1000)
        own = network.default_cfg["input_size"]
    x = torch.rand(1, 3, size, size) if size else torch.rand(1, *own)
    with torch.no_grad():
        if (logits := network.eval()(x)).shape != (1, 1000):
            raise ValueError(f"{name} is no classifier of 1000 classes: {tuple(logits.shape)}")
    return network, x


def onnx_file(network: nn.Module, x: Tensor, opset: int = 17) -> bytes:
    """By torch's first exporter, for any number of images."""
    stream = io.BytesIO()
    names = {"input_names": ["input"], "output_names": ["logits"]}
    axes = {"input": {0: "batch"}, "logits": {0: "batch"}}
    torch.onnx.export(network, (x,), stream, dynamo=False, opset_version=opset, dynamic_axes=axes, **names)
    return stream.getvalue()


def archive(module: Any) -> bytes:
    """A scripted or traced module as ``torch.jit.save`` writes it."""
    stream = io.BytesIO()
    torch.jit.save(module, stream)
    return stream.getvalue()


def scripted(network: nn.Module, x: Tensor) -> bytes:
    """With its control flow."""
    return archive(torch.jit.script(network))


def traced(network: nn.Module, x: Tensor) -> bytes:
    """As it treats ``x``."""
    return archive(torch.jit.trace(network, x, check_trace=False))
