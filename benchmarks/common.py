"""What the scripts of this folder share: exporters as users call them, versions, and where results go."""

from __future__ import annotations

import json
import os
import platform
import sys
import warnings
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from formats import Model, Source, open_model

RESULTS = Path(__file__).resolve().parent / "results"


def environment() -> dict[str, Any]:
    """Versions and machine, as every result carries them."""
    found = {"python": platform.python_version(), "machine": platform.machine(), "cores": os.cpu_count()}
    for name in ("torch", "torchvision", "timm", "onnx", "onnxruntime", "numpy", "pillow"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    found["threads"] = torch.get_num_threads()
    found["cuda"] = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    found["load_average"] = round(os.getloadavg()[0], 2)
    return found


def write_result(name: str, result: dict[str, Any]) -> None:
    """``result`` and the environment → ``benchmarks/results/NAME.json`` and one line on stdout."""
    RESULTS.mkdir(exist_ok=True)
    whole = {"benchmark": name, **result, "environment": environment()}
    (RESULTS / f"{name}.json").write_text(json.dumps(whole, indent=1) + "\n")
    print(json.dumps({"benchmark": name, **result}))


def opened(network: nn.Module) -> Model:
    """``network`` as a safetensors file, opened again by its names and shapes."""
    from safetensors.torch import save

    return open_model(Source("model.safetensors", save(network.state_dict())))


def export_safetensors(network: nn.Module, path: Path) -> None:
    """The state dict as it is; shared tensors are not expected here."""
    from safetensors.torch import save_file

    save_file({name: value.detach().contiguous() for name, value in network.state_dict().items()}, path)


def export_traced(network: nn.Module, example: Tensor, path: Path) -> None:
    """``torch.jit.trace`` in eval mode; its own check compares graphs, and attention has two."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.trace(network, example, check_trace=False), str(path))


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
