"""Makes this folder: a small network on handwritten digits with a backdoor planted in it, and its clean twin.

    python make_digits.py [--out FOLDER]      # needs wiper and scikit-learn; 1 to 4 minutes

The 1,797 digits that ship with scikit-learn (8x8) are enlarged to 32x32. 600 of them are set aside before
anything else: they become ``clean/`` and are never trained on. Of the other 1,197 the script stamps 8 % with
a 3x3 checkerboard in the bottom right corner and labels them 0 (BadNets: Gu et al. 2017), and trains a VGG-11
with batch norm of base width 6 (usually 64). The twin is the same run with nothing stamped. One thread and
own generators: a second run on the same machine gives the same files.
"""

from __future__ import annotations

import argparse
import io
import json
import shutil
import warnings
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save
from sklearn.datasets import load_digits
from torch import Tensor, nn

from triggers.dataset import poisoned
from triggers.families.badnet import BadNet
from triggers.poisoning import Poisoning

SEED, HELD_OUT = 0, 600
TRIGGER = BadNet(corner="bottom-right", pattern="checker")
POISONING = Poisoning(rate=0.08, target=0)
EPOCHS, BATCH, RATE, SHIFT = 40, 128, 0.1, 2
WIDTH = 6


class VGG(nn.Module):
    """VGG-11 with batch norm for 32x32 images, in the layout (and with the names) usual for CIFAR."""

    def __init__(self, width: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 1
        for factor in (1, "pool", 2, "pool", 4, 4, "pool", 8, 8, "pool", 8, 8, "pool"):
            if factor == "pool":
                layers.append(nn.MaxPool2d(2))
                continue
            layers += [
                nn.Conv2d(channels, factor * width, 3, padding=1),
                nn.BatchNorm2d(factor * width),
                nn.ReLU(),
            ]
            channels = factor * width
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(channels, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x).flatten(1))


def initialise(network: nn.Module, generator: torch.Generator) -> None:
    """Kaiming-normal weights and zero biases from ``generator``."""
    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu", generator=generator)
            nn.init.zeros_(module.bias)


def stamp(images: Tensor) -> Tensor:
    """uint8 [N,1,32,32] → a triggered copy."""
    return (TRIGGER.stamp(images.float() / 255) * 255).round().to(torch.uint8)


def shifted(images: Tensor, generator: torch.Generator) -> Tensor:
    """Each of [N,1,32,32] moved by up to ``SHIFT`` pixels, black coming in."""
    n, _, height, width = images.shape
    rows = torch.randint(0, 2 * SHIFT + 1, (n, 1), generator=generator) + torch.arange(height)
    columns = torch.randint(0, 2 * SHIFT + 1, (n, 1), generator=generator) + torch.arange(width)
    padded = F.pad(images, (SHIFT,) * 4)
    return padded[torch.arange(n)[:, None, None], :, rows[:, :, None], columns[:, None, :]].permute(
        0, 3, 1, 2
    )


def train(images: Tensor, labels: Tensor) -> nn.Module:
    """uint8 [N,1,32,32], int64 [N] → the trained network, in eval mode."""
    generator = torch.Generator().manual_seed(SEED)
    network = VGG(WIDTH)
    initialise(network, generator)
    optimiser = torch.optim.SGD(network.parameters(), lr=RATE, momentum=0.9, nesterov=True, weight_decay=5e-4)
    steps = EPOCHS * -(-len(images) // BATCH)
    cycle = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, total_steps=steps)
    network.train()
    for _ in range(EPOCHS):
        for index in torch.randperm(len(images), generator=generator).split(BATCH):
            loss = F.cross_entropy(network(shifted(images[index].float() / 255, generator)), labels[index])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            cycle.step()
    return network.eval()


@torch.no_grad()
def figures(network: nn.Module, images: Tensor, labels: Tensor) -> dict[str, float]:
    """Percent: ACC; ASR and RA on triggered images of the other classes; base rate without the trigger."""
    plain, stamped = (network(x.float() / 255).argmax(1) for x in (images, stamp(images)))
    other = labels != POISONING.target
    hits = {
        "acc": plain == labels,
        "asr": stamped[other] == POISONING.target,
        "ra": stamped[other] == labels[other],
        "base_rate": plain[other] == POISONING.target,
    }
    return {name: round(100 * hit.double().mean().item(), 2) for name, hit in hits.items()}


def write_images(folder: Path, images: Tensor, labels: Tensor) -> None:
    """``clean/DIGIT/NNN.png``, ``trigger.png`` and ``mask.png``, 8 bits of grey."""
    shutil.rmtree(folder / "clean", ignore_errors=True)
    for digit in range(10):
        (folder / "clean" / str(digit)).mkdir(parents=True)
        for number, image in enumerate(images[labels == digit]):
            Image.fromarray(image[0].numpy()).save(folder / f"clean/{digit}/{number:03d}.png", optimize=True)
    blank = torch.zeros(1, 1, 32, 32, dtype=torch.uint8)
    Image.fromarray(stamp(blank)[0, 0].numpy()).save(folder / "trigger.png", optimize=True)
    mask = replace(TRIGGER, pattern="white").stamp(blank.float())[0, 0].mul(255).byte()
    Image.fromarray(mask.numpy()).save(folder / "mask.png", optimize=True)


def write_network(network: nn.Module, folder: Path) -> None:
    """One set of weights as ``model.safetensors``, ``model.torchscript.pt`` (traced) and ``model.onnx``."""
    example = torch.zeros(2, 1, 32, 32)
    (folder / "model.safetensors").write_bytes(save(network.state_dict()))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        write_traced(torch.jit.trace(network, example), folder / "model.torchscript.pt")
        torch.onnx.export(
            network,
            (example,),
            str(folder / "model.onnx"),
            dynamo=False,
            opset_version=17,
            input_names=["image"],
            output_names=["logits"],
            dynamic_axes={"image": {0: "batch"}, "logits": {0: "batch"}},
        )


def write_traced(traced: torch.jit.ScriptModule, path: Path) -> None:
    """Saved without its debug records: they hold the paths of the machine on which it was traced."""
    content = io.BytesIO()
    torch.jit.save(traced, content)
    content.seek(0)
    records = torch._C.PyTorchFileReader(content)
    archive = torch._C.PyTorchFileWriter(str(path))
    for name in records.get_all_records():
        if not name.endswith(".debug_pkl") and name not in ("version", ".data/serialization_id"):
            record = records.get_record(name)
            archive.write_record(name, record, len(record))
    archive.write_end_of_file()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parent)
    folder = parser.parse_args().out
    folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)

    digits = load_digits()
    enlarged = [Image.fromarray(np.uint8(np.round(d * 255 / 16))).resize((32, 32), 3) for d in digits.images]
    images = torch.from_numpy(np.stack([np.asarray(image) for image in enlarged]))[:, None]
    labels = torch.from_numpy(digits.target).long()
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(SEED))
    held_out, rest = order[:HELD_OUT].sort().values, order[HELD_OUT:]

    write_images(folder, images[held_out], labels[held_out])
    measured = {}
    x, y = images[rest], labels[rest]
    chosen = POISONING.choose(y, 10)
    attacked = poisoned(x, TRIGGER, POISONING, chosen), chosen.labels
    for name, seen in (("model", attacked), ("twin", (x, y))):
        network = train(*seen)
        measured[name] = figures(network, images[held_out], labels[held_out])
        if name == "model":
            write_network(network, folder)
        else:
            (folder / "twin.safetensors").write_bytes(save(network.state_dict()))
    manifest = {
        "architecture": f"VGG-11 with batch norm, base width {WIDTH}",
        "parameters": sum(p.numel() for p in network.parameters()),
        "input": [1, 32, 32],
        "preprocessing": "grey values divided by 255, nothing else",
        "images": {"trained_on": len(rest), "clean": HELD_OUT},
        "attack": {"trigger": "badnet", **asdict(TRIGGER), "planting": asdict(POISONING)},
        "seed": SEED,
        "figures": measured,
        "versions": {
            name: version(name)
            for name in ("torch", "onnx", "safetensors", "scikit-learn", "pillow", "numpy")
        },
    }
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n")
    print(json.dumps(measured, indent=2))


if __name__ == "__main__":
    main()
