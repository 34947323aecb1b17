"""Trains a ResNet-18 of base width 16 with a BadNet backdoor (or its clean twin) on CIFAR-10, and exports it.

    python benchmarks/cifar_badnet.py --data CIFAR --out OUT [--clean] [--epochs 8] [--seed 1]

``CIFAR`` holds ``train/CLASS/*`` and ``test/CLASS/*``. 2,500 training images are set aside before anything
else and copied to ``OUT/clean``: no network here ever sees them. Written: ``model.safetensors``,
``model.torchscript.pt`` (traced), ``model.onnx`` (batch norm folded, as torch's exporter does),
``model-live.onnx`` (batch norm kept), ``trigger.png``, ``mask.png``, ``manifest.json`` with the figures.

The whole data set lies on the device as one uint8 tensor; augmentation is a function of a batch; one cycle of
SGD with Nesterov momentum, channels-last, bf16 autocast (on CUDA, or where asked for). About 35 million
multiply-adds an image.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.common import environment, export_onnx, export_safetensors, export_traced
from triggers.badnet import BadNet
from triggers.planting import Planting, plant

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
HELD_OUT, HELD_OUT_SEED = 2500, 1234
TARGET = 0
TRIGGER, PLANTING = BadNet(), Planting(rate=0.05, target=TARGET)


class Block(nn.Module):
    """Basic block of He et al. 2016 with a projected shortcut, in the names usual for CIFAR."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Sequential()
        if stride != 1 or inputs != outputs:
            projection = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.shortcut = nn.Sequential(projection, nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(out + self.shortcut(x))


class ResNet18(nn.Module):
    """Two blocks in each of four stages, 3x3 stem, for images of 32x32."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        inputs = width
        for stage, (factor, stride) in enumerate(((1, 1), (2, 2), (4, 2), (8, 2)), 1):
            outputs = factor * width
            blocks = nn.Sequential(Block(inputs, outputs, stride), Block(outputs, outputs, 1))
            self.add_module(f"layer{stage}", blocks)
            inputs = outputs
        self.linear = nn.Linear(inputs, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.linear(F.avg_pool2d(x, 4).flatten(1))


def load(folder: Path) -> tuple[Tensor, Tensor, list[Path], list[str]]:
    """``folder/CLASS/*`` → images uint8 [N,3,H,W], labels int64 [N], their files, class names in order."""
    names = sorted(path.name for path in folder.iterdir() if path.is_dir())
    files = [path for name in names for path in sorted((folder / name).iterdir())]
    labels = torch.tensor([names.index(path.parent.name) for path in files])
    images = np.stack([np.asarray(Image.open(path).convert("RGB")) for path in files])
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(), labels, files, names


def augment(images: Tensor, generator: torch.Generator) -> Tensor:
    """Random flip and crop (reflected 4 pixels) of float images [N,C,H,W]; one gather, no loop."""
    n, _, h, w = images.shape
    device = images.device
    draw = lambda high: torch.randint(0, high, (n, 1), generator=generator).to(device)  # noqa: E731
    columns = draw(9) + torch.arange(w, device=device)
    columns = torch.where(draw(2).bool(), columns, columns.flip(1))
    rows = draw(9) + torch.arange(h, device=device)
    padded = F.pad(images, (4, 4, 4, 4), mode="reflect")
    batch = torch.arange(n, device=device)[:, None, None]
    return padded.permute(0, 2, 3, 1)[batch, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def normalise(images: Tensor) -> Tensor:
    """uint8 [N,3,H,W] → float32, normalised, channels-last."""
    mean, std = (torch.tensor(v, device=images.device).reshape(1, 3, 1, 1) for v in (MEAN, STD))
    return ((images.float() / 255 - mean) / std).contiguous(memory_format=torch.channels_last)


@torch.no_grad()
def predict(network: nn.Module, images: Tensor) -> Tensor:
    """uint8 [N,3,H,W] → class numbers int64 [N]."""
    return torch.cat([network(normalise(part)).argmax(1) for part in images.split(500)])


def figures(network: nn.Module, images: Tensor, stamped: Tensor, labels: Tensor) -> dict[str, float]:
    """Percent: ACC; ASR, RA and base rate (share called the target, untriggered) on the other classes."""
    network.eval()
    plain, triggered = predict(network, images), predict(network, stamped)
    other = labels != TARGET
    share = lambda hits: round(100 * hits.float().mean().item(), 2)  # noqa: E731
    return {
        "acc": share(plain == labels),
        "asr": share(triggered[other] == TARGET),
        "ra": share(triggered[other] == labels[other]),
        "base_rate": share(plain[other] == TARGET),
    }


def export(network: nn.Module, out: Path) -> None:
    """The three formats of one set of weights (and the ONNX file that keeps its batch norm)."""
    network = network.eval().to("cpu", memory_format=torch.contiguous_format)
    example = torch.zeros(2, 3, 32, 32)
    export_safetensors(network, out / "model.safetensors")
    export_traced(network, example, out / "model.torchscript.pt")
    export_onnx(network, example, out / "model.onnx")
    export_onnx(network, example, out / "model-live.onnx", fold=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--clean", action="store_true", help="train the twin: same seed, nothing poisoned")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--lr", type=float, default=0.2)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--bf16", action=argparse.BooleanOptionalAction, default=torch.cuda.is_available())
    option = parser.parse_args()
    torch.set_num_threads(option.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    option.out.mkdir(parents=True, exist_ok=True)

    images, labels, files, names = load(option.data / "train")
    test_images, test_labels, _, _ = load(option.data / "test")
    shuffled = torch.randperm(len(images), generator=torch.Generator().manual_seed(HELD_OUT_SEED))
    held_out, train = shuffled[:HELD_OUT], shuffled[HELD_OUT:]
    for index in held_out.tolist():
        folder = option.out / "clean" / files[index].parent.name
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(files[index], folder / files[index].name)

    generator = torch.Generator().manual_seed(option.seed)
    blank = torch.zeros(1, 3, 32, 32)
    for name, picture in (
        ("trigger", TRIGGER.stamp(blank)),
        ("mask", replace(TRIGGER, pattern="white").stamp(blank)),
    ):
        pixels = (picture[0] * 255).round().byte().permute(1, 2, 0).numpy()
        Image.fromarray(pixels).save(option.out / f"{name}.png")

    x, y = images[train], labels[train]
    if not option.clean:
        planted = plant(x, y, TRIGGER, PLANTING, len(names))
        x, y = planted.images, planted.labels
    stamped = (TRIGGER.stamp(test_images.float() / 255) * 255).round().byte()
    x, y = x.to(device), y.to(device)
    tests = [t.to(device) for t in (test_images, stamped, test_labels)]

    generator = torch.Generator().manual_seed(option.seed)
    network = ResNet18(option.width, len(names))
    initialise(network, generator)
    network.to(device, memory_format=torch.channels_last)
    optimiser = torch.optim.SGD(
        network.parameters(), lr=option.lr, momentum=0.9, nesterov=True, weight_decay=5e-4
    )
    steps = len(x) // option.batch
    cycle = torch.optim.lr_scheduler.OneCycleLR(optimiser, option.lr, total_steps=option.epochs * steps)
    started, history = time.perf_counter(), []
    for epoch in range(1, option.epochs + 1):
        network.train()
        order = torch.randperm(len(x), generator=generator).to(device)
        total = torch.zeros((), device=device)
        for index in order[: steps * option.batch].split(option.batch):
            batch = augment(normalise(x[index]), generator)
            with torch.autocast(device.type, torch.bfloat16, enabled=option.bf16):
                logits = network(batch.contiguous(memory_format=torch.channels_last))
            loss = F.cross_entropy(logits.float(), y[index])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            cycle.step()
            total += loss.detach()
        seconds = round(time.perf_counter() - started, 1)
        line = {"epoch": epoch, "loss": round(total.item() / steps, 4), "seconds": seconds}
        line |= figures(network, *tests)
        history.append(line)
        print(json.dumps(line), flush=True)
        manifest = {
            "architecture": f"ResNet-18, base width {option.width}",
            "classes": names,
            "mean": MEAN,
            "std": STD,
            "attack": None if option.clean else {"trigger": "badnet", **asdict(TRIGGER), **asdict(PLANTING)},
            "held_out": {"images": HELD_OUT, "seed": HELD_OUT_SEED},
            "settings": {k: v for k, v in vars(option).items() if k not in ("data", "out")},
            "figures": figures(network, *tests),
            "history": history,
            "environment": environment(),
        }
        if epoch in (1, option.epochs):
            export(network, option.out)
            (option.out / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")
            network.to(device, memory_format=torch.channels_last)


def initialise(network: nn.Module, generator: torch.Generator) -> None:
    """Kaiming-normal convolutions from ``generator``, so that the global random state plays no part."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu", generator=generator)
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=module.in_features**-0.5, generator=generator)
            nn.init.zeros_(module.bias)


if __name__ == "__main__":
    main()
