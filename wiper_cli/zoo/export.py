"""A trained network as the files that people deploy: one for each kind, with batch norm live and folded."""

import copy
import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

#: File name → what it is; a safetensors file of an architecture always keeps its batch norm.
FILES: Mapping[str, str] = {
    "model.safetensors": "state dict, batch norm live",
    "model.pt": "TorchScript, traced, batch norm live",
    "model-folded.pt": "TorchScript, traced and frozen, batch norm folded",
    "model.onnx": "ONNX, batch norm folded",
    "model-live.onnx": "ONNX, batch norm live",
}


def export(network: nn.Module, shape: tuple[int, int, int], folder: Path, config: Mapping[str, Any]) -> None:
    """All of :data:`FILES` and ``config.json`` (preprocessing and class names, as model hubs keep it)."""
    plain = copy.deepcopy(network).eval().to("cpu", memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    example = torch.zeros(2, *shape)
    export_safetensors(plain, folder / "model.safetensors")
    export_traced(plain, example, folder / "model.pt")
    export_frozen(plain, example, folder / "model-folded.pt")
    export_onnx(plain, example, folder / "model.onnx")
    export_onnx(plain, example, folder / "model-live.onnx", fold=False)
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")


def export_safetensors(network: nn.Module, path: Path) -> None:
    """The state dict as it is; shared tensors are not expected here."""
    from safetensors.torch import save

    state = {name: value.detach().contiguous() for name, value in network.state_dict().items()}
    path.write_bytes(save(state))  # the library's own writing leaves a file that only its owner may read


def export_traced(network: nn.Module, example: Tensor, path: Path) -> None:
    """``torch.jit.trace`` in eval mode; its own check compares graphs, and attention has two."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.trace(network, example, check_trace=False), str(path))


def export_frozen(network: nn.Module, example: Tensor, path: Path) -> None:
    """Traced and frozen: weights become constants, and batch norm is folded into convolutions."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.freeze(torch.jit.trace(network, example, check_trace=False)), str(path))


def export_onnx(network: nn.Module, example: Tensor, path: Path, fold: bool = True) -> None:
    """Legacy exporter, opset 17, free batch size; without ``fold`` batch norm stays a node of its own."""
    mode = torch.onnx.TrainingMode.EVAL if fold else torch.onnx.TrainingMode.PRESERVE
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network,
            (example,),
            str(path),
            dynamo=False,
            opset_version=17,
            training=mode,
            input_names=["input"],
            output_names=["logits"],
            dynamic_axes={"input": {0: "batch"}, "logits": {0: "batch"}},
        )
