"""Images a second of whole-network purification against a bare PyTorch loop that trains the same network.

    python -m benchmarks.whole_network [--images 512] [--rounds 5]

The network is a ResNet-18 of base width 16, the images are 32x32; one thread on the CPU. Alternating in one run:
``fine-tuning`` for one epoch as the purifier runs it (augmentation, history, accuracy on a select part of a
tenth of the images, the edit), and a loop of forward, cross-entropy, backward and SGD step over the same
batches, batch norm in eval mode, neither augmented nor measured. On CUDA both run there, the loop with the
purifier's precision and memory layout.
"""

import argparse
import copy
import statistics
import time

import torch
import torch.nn.functional as F

from benchmarks.common import opened, write_result
from wiper_cli.classifier import Classifier
from wiper_cli.images.splits import Clean, Part
from wiper_cli.purifiers.contract import Task
from wiper_cli.purifiers.machinery.training import precision
from wiper_cli.purifiers.methods.fine_tuning import FineTuning
from wiper_cli.zoo import architectures

LEAST_RATIO = 0.8


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--width", type=int, default=16)
    option = parser.parse_args()
    torch.set_num_threads(1)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    generator = torch.Generator().manual_seed(0)
    network = architectures.find(f"resnet18-w{option.width}").build(10, 3).eval()
    architectures.initialise(network, generator)
    classifier = Classifier(opened(network), (0.5,) * 3, (0.5,) * 3, device)
    images = torch.randint(0, 256, (option.images, 3, 32, 32), generator=generator, dtype=torch.uint8)
    labels = torch.randint(0, 10, (option.images,), generator=generator)
    few = option.images // 10
    clean = Clean(
        fit=Part(images, labels), select=Part(images[:few], labels[:few]), report=Part(images, labels)
    )
    settings = FineTuning(epochs=1, lr=1e-4)

    def purifier() -> None:
        settings.run(Task(classifier, clean))

    def bare() -> None:
        student = copy.deepcopy(network).to(device)
        if device.type == "cuda":
            student.to(memory_format=torch.channels_last)
        optimiser = torch.optim.SGD(student.parameters(), lr=1e-4, momentum=0.9, weight_decay=5e-4)
        pixels, truth = images.to(device), labels.to(device)
        for x, y in zip(pixels.split(settings.batch), truth.split(settings.batch), strict=True):
            with precision(device):
                loss = F.cross_entropy(student((x.float() / 255 - 0.5) / 0.5), y)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        if device.type == "cuda":
            torch.cuda.synchronize()

    rounds: list[dict[str, tuple[float, float]]] = []
    for number in range(option.rounds + 1):
        line = {}
        for name, work in (("bare", bare), ("purifier", purifier)):
            wall, processor = time.perf_counter(), time.process_time()
            work()
            line[name] = (time.perf_counter() - wall, time.process_time() - processor)
        if number:  # the first warms up
            rounds.append(line)
    ratios = {
        clock: round(statistics.median(r["bare"][i] / r["purifier"][i] for r in rounds), 3)
        for i, clock in enumerate(("wall", "cpu"))
    }
    speed = {
        name: round(option.images / statistics.median(r[name][0] for r in rounds), 1)
        for name in ("bare", "purifier")
    }
    write_result(
        "whole_network",
        {
            "settings": {"images": option.images, "rounds": option.rounds, "batch": settings.batch},
            "device": device.type,
            "least_ratio": LEAST_RATIO,
            "images_a_second_relative_to_bare": ratios,
            "images_a_second_wall": speed,
        },
    )


if __name__ == "__main__":
    main()
