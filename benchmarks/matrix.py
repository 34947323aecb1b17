"""The format matrix: which architectures go the whole way in which format.

    python -m benchmarks.matrix [--only MODEL,…] [--formats FORMAT,…] [--again] [--timeout 600]

Every cell is one network with random weights, 10 classes and batch-norm statistics of its own, saved in one
format and then: opened and its head found; its logits compared with the eager network's; scanned (salience of
the head's units on random images); purified by one epoch of fine-tuning all weights; written; and the written
file run in the runtime that serves it, against the purified network. Each cell is a process of its own with a
time limit. Cells that are done are not repeated: results stand in ``benchmarks/results/matrix.json``, and the
table made of them in ``docs/matrix.md``.
"""

import argparse
import json
import multiprocessing
import tempfile
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULT, TABLE = ROOT / "benchmarks/results/matrix.json", ROOT / "docs/matrix.md"

#: Largest difference of logits, relative to how far the images' logits lie apart (from their mean, at most).
TOLERANCE = 1e-4
CLASSES, IMAGES = 10, 8


@dataclass(frozen=True)
class Network:
    """``side``: of the images in pixels. ``graph_side``: what a file that fixes the size is built for."""

    library: str
    side: int = 64
    graph_side: int | None = None


NETWORKS = {
    "resnet18": Network("torchvision"),
    "mobilenet_v3_small": Network("torchvision"),
    "efficientnet_b0": Network("torchvision"),
    "vit_b_16": Network("torchvision", 224, 64),
    "convnext_tiny": Network("torchvision"),
    "densenet121": Network("torchvision"),
    "swin_t": Network("torchvision"),
    "regnet_y_400mf": Network("torchvision"),
    "shufflenet_v2_x0_5": Network("torchvision"),
    "googlenet": Network("torchvision"),
    "resnet10t": Network("timm"),
    "mobilenetv4_conv_small": Network("timm"),
    "vit_tiny_patch16_224": Network("timm", 224),
    "convnext_atto": Network("timm"),
    "mixer_s32_224": Network("timm", 224),
}
FORMATS = {
    "safetensors": "safetensors",
    "traced": "TorchScript traced",
    "scripted": "TorchScript scripted",
    "frozen": "TorchScript traced, frozen",
    "onnx-legacy": "ONNX legacy (17)",
    "onnx-dynamo": "ONNX dynamo",
}
STEPS = ("export", "open", "logits", "scan", "purify", "write", "serve")


def build(name: str, format: str) -> tuple[Any, int]:
    """(the network in eval mode, side of its images), the same for every format but for fixed sizes."""
    import torch

    from formats.safetensors.torchvision_stub import import_torchvision

    torchvision, network = import_torchvision(), NETWORKS[name]
    side = network.graph_side if network.graph_side and format != "safetensors" else network.side
    torch.manual_seed(0)
    if network.library == "torchvision":
        options: dict[str, Any] = {"init_weights": True} if name == "googlenet" else {}
        if network.graph_side and format != "safetensors":
            options["image_size"] = side
        built = torchvision.models.get_model(name, weights=None, num_classes=CLASSES, **options)
    else:
        import timm

        built = timm.create_model(name, num_classes=CLASSES, scriptable=format == "scripted")
    enliven(built, side)
    return built.eval(), side


def enliven(network: Any, side: int) -> None:
    """Random values where fresh networks have constants that hide a layer, and batch-norm statistics of images.

    Scales of norms and residual branches (often 0 or 1e-6 at first), the head (often 0), and running statistics
    measured on images: so that every layer shows in logits that differ between images.
    """
    import torch
    from torch import nn

    generator = torch.Generator().manual_seed(1)
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith(("gamma", "layer_scale")):
                parameter.uniform_(0.1, 1, generator=generator)
        for module in norms:
            module.weight.uniform_(0.5, 1.5, generator=generator)
            module.bias.normal_(0, 0.1, generator=generator)
        for module in network.modules():
            if isinstance(module, nn.Linear) and module.out_features == CLASSES:
                module.weight.normal_(0, 2 * module.in_features**-0.5, generator=generator)
                module.bias.normal_(0, 0.1, generator=generator)
        usual = [module.momentum for module in norms]
        network.eval()
        for module in norms:
            module.momentum = 1.0
            module.train()
        network(pictures(side).float() / 127.5 - 1)
        for module, momentum in zip(norms, usual, strict=True):
            module.momentum = momentum
            module.running_var.clamp_(min=0.1 * module.running_var.mean())


def pictures(side: int, count: int = 2 * IMAGES) -> Any:
    """uint8 [count,3,side,side]: coarse random colours with noise on them, so that images differ."""
    import torch
    import torch.nn.functional as F

    generator = torch.Generator().manual_seed(4)
    coarse = torch.rand(count, 3, 4, 4, generator=generator)
    fine = torch.rand(count, 3, side, side, generator=generator)
    images = 0.8 * F.interpolate(coarse, size=(side, side), mode="bilinear") + 0.2 * fine
    return (images * 255).round().to(torch.uint8)


def export(network: Any, format: str, side: int, folder: Path) -> Path:
    """The file that torch makes of ``network``."""
    import torch

    from wiper_cli.zoo.export import export_onnx, export_safetensors, export_traced

    example = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(2))
    if format == "safetensors":
        path = folder / "model.safetensors"
        export_safetensors(network, path)
    elif format == "traced":
        path = folder / "model.pt"
        export_traced(network, example, path)
    elif format in ("scripted", "frozen"):
        path = folder / "model.pt"
        scripted = (
            torch.jit.script(network)
            if format == "scripted"
            else torch.jit.trace(network, example, check_trace=False)
        )
        torch.jit.save(scripted if format == "scripted" else torch.jit.freeze(scripted), str(path))
    elif format == "onnx-legacy":
        path = folder / "model.onnx"
        export_onnx(network, example, path)
    else:
        path = folder / "model.onnx"
        batch = {0: torch.export.Dim("batch", min=1)}
        program = torch.onnx.export(
            network, (example,), dynamo=True, dynamic_shapes=(batch,), external_data=True, verbose=False
        )
        program.save(str(path), external_data=True)
    return path


def cell(name: str, format: str) -> dict[str, Any]:
    """One cell, in this process. ``failed`` names the step at which it ended, ``error`` says why."""
    import warnings

    warnings.simplefilter("ignore")
    import torch

    torch.set_num_threads(1)
    from formats import edit_of, inspect, open_model, read_source, serve, write_edit
    from wiper_cli.classifier import Classifier
    from wiper_cli.images.splits import Clean, Part
    from wiper_cli.purifiers.contract import Task
    from wiper_cli.purifiers.methods.fine_tuning import FineTuning
    from wiper_cli.salience.stream import measure

    record: dict[str, Any] = {"seconds": {}}
    began, step = time.perf_counter(), "export"

    def done(now: str, after: str) -> str:
        nonlocal began
        record["seconds"][now] = round(time.perf_counter() - began, 2)
        began = time.perf_counter()
        return after

    def distance(a: Any, b: Any) -> float:
        return float((a - b).abs().max() / (b - b.mean(0)).abs().max())

    with tempfile.TemporaryDirectory() as folder, torch.random.fork_rng():
        try:
            network, side = build(name, format)
            pixels = pictures(side)[:IMAGES]
            labels = torch.randint(0, CLASSES, (IMAGES,), generator=torch.Generator().manual_seed(3))
            part = Part(pixels, labels)
            x = (pixels.float() / 255 - 0.5) / 0.5
            with torch.no_grad():
                expected = network(x)
            path = export(network, format, side, Path(folder))
            del network
            step = done(step, "open")
            source = read_source(path)
            record["bytes"] = source.size
            model = open_model(source)
            record |= {"architecture": model.architecture.name, "tensors": len(model.tensors)}
            if model.network is None:
                raise RuntimeError("opened head-only: " + "; ".join(model.notes))
            if model.head is None or not model.head.linear:
                raise RuntimeError("no linear head was found")
            record["head"] = [model.head.classes, model.head.units]
            step = done(step, "logits")
            with torch.no_grad():
                logits = model.network(x)
            record["logits"] = distance(logits, expected)
            record["spread"] = float((expected - expected.mean(0)).abs().max())
            if not record["logits"] <= TOLERANCE:
                raise RuntimeError(f"logits differ from the eager network's by {record['logits']:.1e}")
            step = done(step, "scan")
            classifier = Classifier(model, (0.5,) * 3, (0.5,) * 3)
            salience = measure(classifier, part, batch=4)
            if not bool(salience.bs.isfinite().all()) or not bool(salience.bs.any()):
                raise RuntimeError("salience is zero or not finite")
            step = done(step, "purify")
            settings = FineTuning(epochs=1, batch=4, lr=1e-5, flip=False, crop=0.0)
            clean = Clean(fit=part, select=part, report=part)
            purified = settings.run(Task(classifier, clean))
            record["changed"] = len(purified.edit.tensors)
            step = done(step, "write")
            written = write_edit(source, inspect(source), purified.edit)
            out = Path(folder) / "purified"
            out.mkdir()
            for location, data in {**source.files, **written}.items():
                (out / (location or path.name)).write_bytes(data)
            step = done(step, "serve")
            again = read_source(out / path.name)
            reopened = open_model(again)
            with torch.no_grad():
                after = reopened.network(x)
            record["moved"] = distance(after, logits)
            record["served"] = distance(serve(again, None)(x), after)
            if edit_of(model, reopened.network).tensors.keys() != purified.edit.tensors.keys():
                raise RuntimeError("the tensors that changed in the file are not those of the edit")
            if not record["served"] <= TOLERANCE:
                raise RuntimeError(f"the serving runtime differs by {record['served']:.1e}")
            done(step, "")
        except Exception as error:
            lines = str(error).strip().splitlines() or [""]
            record |= {"failed": step, "error": f"{type(error).__name__}: {lines[0][:300]}"}
    return record


def load() -> dict[str, dict[str, Any]]:
    """Cells so far, by ``model/format``."""
    return json.loads(RESULT.read_text())["cells"] if RESULT.is_file() else {}


def save(cells: dict[str, dict[str, Any]]) -> None:
    """The JSON and the table."""
    from benchmarks.common import environment

    RESULT.parent.mkdir(exist_ok=True)
    order = [f"{name}/{format}" for name in NETWORKS for format in FORMATS]
    cells = {key: cells[key] for key in order if key in cells}
    settings = {
        "classes": CLASSES,
        "images": IMAGES,
        "tolerance": TOLERANCE,
        "method": "fine-tuning, 1 epoch",
    }
    whole = {"benchmark": "matrix", "settings": settings, "cells": cells, "environment": environment()}
    RESULT.write_text(json.dumps(whole, indent=1) + "\n")
    TABLE.parent.mkdir(exist_ok=True)
    TABLE.write_text(render(whole))


def render(result: dict[str, Any]) -> str:
    """The Markdown table, and every failure by name below it."""
    cells, versions = result["cells"], result["environment"]
    lines = [
        "# Format matrix",
        "",
        "Rendered by `benchmarks/matrix.py` from `benchmarks/results/matrix.json`. Random weights, 10 classes. Each",
        "cell was exported, opened, compared with the eager network, scanned (salience), purified by one epoch of",
        "fine-tuning of all weights, written, and run in its serving runtime. The number is the larger of the two",
        "differences of logits, relative to how far the logits of the images lie apart from their mean;",
        f"up to {result['settings']['tolerance']:g} passes.",
        "",
        "Versions: "
        + ", ".join(f"{k} {versions[k]}" for k in ("torch", "torchvision", "timm", "onnx", "onnxruntime"))
        + ".",
        "",
        "| network | " + " | ".join(FORMATS.values()) + " |",
        "|---" * (len(FORMATS) + 1) + "|",
    ]
    failures = []
    for name, network in NETWORKS.items():
        row = [f"{name} ({network.library})"]
        for format in FORMATS:
            record = cells.get(f"{name}/{format}")
            if record is None:
                row.append("not run")
            elif "failed" in record:
                row.append(f"**{record['failed']}**")
                failures.append(f"- {name}, {FORMATS[format]}, at {record['failed']}: {record['error']}")
            else:
                row.append(f"{max(record['logits'], record['served']):.0e}")
        lines.append("| " + " | ".join(row) + " |")
    passed = sum("failed" not in record for record in cells.values())
    lines += ["", f"{passed} of {len(cells)} cells that were run passed."]
    if failures:
        lines += [
            "",
            "## Failures",
            "",
            "A failure at `export` is torch's, the others are ours.",
            "",
            *failures,
        ]
    return "\n".join(lines) + "\n"


def _answer(pipe: Connection, name: str, format: str) -> None:
    pipe.send(cell(name, format))


def run(name: str, format: str, timeout: float) -> dict[str, Any]:
    """One cell in a process of its own, forked where the libraries are loaded already."""
    ours, theirs = multiprocessing.Pipe(duplex=False)
    child = multiprocessing.get_context("fork").Process(target=_answer, args=(theirs, name, format))
    child.start()
    theirs.close()
    try:
        if ours.poll(timeout):
            return ours.recv()
        return {"failed": "time", "error": f"not done after {timeout:g} s"}
    except EOFError:
        child.join()
        return {"failed": "process", "error": f"ended with exit code {child.exitcode}"}
    finally:
        child.kill()
        child.join()


def preload() -> None:
    """Loads the libraries that every cell needs, and starts no threads that a fork would lose."""
    import onnxruntime  # noqa: F401
    import torch

    from formats.safetensors.torchvision_stub import import_torchvision

    torch.set_num_threads(1)
    import_torchvision()
    import timm  # noqa: F401


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", default=",".join(NETWORKS))
    parser.add_argument("--formats", default=",".join(FORMATS))
    parser.add_argument("--again", action="store_true", help="also the cells that failed")
    parser.add_argument("--timeout", type=float, default=600)
    parser.add_argument("--render", action="store_true", help="make the table again, run nothing")
    option = parser.parse_args()
    if option.render:
        TABLE.write_text(render(json.loads(RESULT.read_text())))
        return
    preload()
    for format in option.formats.split(","):
        for name in option.only.split(","):
            before = load().get(f"{name}/{format}")
            if before is not None and not (option.again and "failed" in before):
                continue
            began = time.perf_counter()
            record = run(name, format, option.timeout)
            save({**load(), f"{name}/{format}": record})
            outcome = f"failed at {record['failed']}: {record['error']}" if "failed" in record else "passed"
            print(f"{name:24} {format:12} {time.perf_counter() - began:6.1f} s  {outcome}", flush=True)


if __name__ == "__main__":
    main()
