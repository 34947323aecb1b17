"""Training throughput of the zoo beside a plain PyTorch loop, side by side in one run, images a second.

    python -m benchmarks.zoo_training [--arch resnet10-patch-w16] [--batches 40] [--rounds 5] [--device cpu]

zoo: the loop of ``wiper zoo`` with its augmentation (flip, crop), in the precision it chooses and in float32.
plain: a DataLoader over a tensor data set with torchvision's transforms for each image, float32, the layout as it
comes. bare: float images that are ready in memory, no augmentation at all, float32. The same network, batch
size, optimiser and images; the rounds alternate, and the medians are compared.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from benchmarks.common import write_result
from formats.safetensors.torchvision_stub import import_torchvision
from wiper_cli.zoo import architectures, training
from wiper_cli.zoo.recipe import Schedule

MEAN, STD = (0.49, 0.48, 0.45), (0.25, 0.24, 0.26)


class Usual(Dataset):  # type: ignore[type-arg]
    """Images one by one, with torchvision's transforms."""

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        import_torchvision()
        from torchvision.transforms import v2

        self.images, self.labels = images, labels
        self.transform = v2.Compose(
            [
                v2.RandomCrop(32, padding=4, padding_mode="reflect"),
                v2.RandomHorizontalFlip(),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize(MEAN, STD),
            ]
        )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, place: int) -> tuple[Tensor, Tensor]:
        return self.transform(self.images[place]), self.labels[place]


def fresh(arch: str) -> nn.Module:
    network = architectures.find(arch).build(10, 3)
    architectures.initialise(network, torch.Generator().manual_seed(0))
    return network


def simple(network: nn.Module, batches: object, device: torch.device) -> None:
    """The loop of every tutorial."""
    network.train()
    optimiser = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9, nesterov=True, weight_decay=5e-4)
    for x, y in batches:  # type: ignore[attr-defined]
        loss = F.cross_entropy(network(x.to(device)), y.to(device))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--arch", default="resnet10-patch-w16")
    parser.add_argument("--batches", type=int, default=40)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    option = parser.parse_args()
    torch.set_num_threads(option.threads)
    device = torch.device(option.device)
    count = option.batches * option.batch
    draw = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, 3, 32, 32), generator=draw, dtype=torch.uint8)
    labels = torch.randint(0, 10, (count,), generator=draw)
    none = torch.zeros(count, dtype=torch.bool, device=device)
    poison = training.Poison(images.to(device), labels.to(device), none, none)
    schedule = replace(Schedule(), epochs=1, batch=option.batch, lr=0.05)
    ready = ((images.float() / 255 - 0.5) / 0.25).to(device)
    chosen = training.low_precision

    def zoo(low: Callable[[torch.device], bool]) -> None:
        training.low_precision = low
        training.train(training.Normalised(fresh(option.arch), MEAN, STD), poison, schedule, 0)
        training.low_precision = chosen

    def plain() -> None:
        loader = DataLoader(Usual(images, labels), option.batch, shuffle=True, num_workers=0)
        simple(fresh(option.arch).to(device), loader, device)

    def bare() -> None:
        pairs = zip(ready.split(option.batch), labels.split(option.batch), strict=True)
        simple(fresh(option.arch).to(device), pairs, device)

    loops: dict[str, Callable[[], None]] = {
        "zoo": lambda: zoo(chosen),
        "zoo float32": lambda: zoo(lambda _: False),
        "plain": plain,
        "bare": bare,
    }
    spent: dict[str, list[float]] = {name: [] for name in loops}
    for turn in range(option.rounds + 1):
        for name, loop in loops.items():
            began = time.perf_counter()
            loop()
            if device.type == "cuda":
                torch.cuda.synchronize()
            if turn:  # the first round warms up
                spent[name].append(time.perf_counter() - began)
    speed = {name: round(count / statistics.median(seconds)) for name, seconds in spent.items()}
    result = {
        "arch": option.arch,
        "device": device.type,
        "precision": "bfloat16" if chosen(device) else "float32",
        "images_per_second": speed,
        "ratio": {name: round(speed["zoo"] / value, 2) for name, value in speed.items() if name != "zoo"},
        "settings": {k: v for k, v in vars(option).items() if k != "device"},
    }
    write_result(f"zoo_training_{device.type}", result)


if __name__ == "__main__":
    main()
