"""Whether images are answered faster that come channels last, in bfloat16, or in smaller parts: one network beside
itself.

    python -m benchmarks.memory_layout [--results DIR]

Networks of torchvision with random weights on images of noise, one thread, without and with a gradient to the images
(as inversions take it). ``forward`` and ``both``: processor time with channels first over that with channels last, each
the least of three turns that alternate; over 1 is faster. :meth:`wiper_cli.classifier.Classifier.lay_out` acts on it.
``parts``: four times as many images at once over the same in parts of :data:`wiper_cli.classifier.AT_ONCE` pixels,
without a gradient. ``low_forward`` and ``low_both``: float32 over bfloat16, both with channels last.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks.common import RESULTS, write_result
from formats.safetensors.torchvision_stub import import_torchvision
from wiper_cli.classifier import AT_ONCE

NETWORKS = ("resnet18", "resnet50", "mobilenet_v3_large", "efficientnet_b0", "convnext_tiny", "vit_b_16")
SIDES, IMAGES, TURNS = (64, 112, 224), 16, 3


def forward(network: nn.Module, x: Tensor) -> None:
    """Answers alone."""
    with torch.no_grad():
        network(x)


def both(network: nn.Module, x: Tensor) -> None:
    """Answers, and what they owe to the images."""
    torch.autograd.backward(network(x.requires_grad_(True)).sum())


FIRST, LAST, LOW = (torch.contiguous_format, False), (torch.channels_last, False), (torch.channels_last, True)


def ratios(work: Callable[[nn.Module, Tensor], None], network: nn.Module, images: Tensor) -> dict[str, float]:
    """Time with channels first over that with channels last, and that over the time in bfloat16."""
    times: dict[tuple[torch.memory_format, bool], list[float]] = {}
    for _ in range(TURNS + 1):  # the first warms up
        for way in (FIRST, LAST, LOW):
            x = images.clone().contiguous(memory_format=way[0])
            began = time.process_time()
            with torch.autocast("cpu", torch.bfloat16, enabled=way[1]):
                work(network, x)
            times.setdefault(way, []).append(time.process_time() - began)
    first, last, low = (min(times[way][1:]) for way in (FIRST, LAST, LOW))
    return {work.__name__: round(first / last, 2), f"low_{work.__name__}": round(last / low, 2)}


def parts(network: nn.Module, images: Tensor) -> float:
    """Time of all ``images`` at once over that in parts."""
    most = max(1, AT_ONCE // (images.shape[2] * images.shape[3]))
    least: dict[int, list[float]] = {}
    for _ in range(TURNS + 1):
        for size in (len(images), most):
            began = time.process_time()
            for part in images.split(size):
                forward(network, part)
            least.setdefault(size, []).append(time.process_time() - began)
    whole, small = (min(times[1:]) for times in (least[len(images)], least[most]))
    return round(whole / small, 2)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    found = []
    for name in NETWORKS:
        network = getattr(import_torchvision().models, name)(weights=None).eval().requires_grad_(False)
        for side in SIDES if name != "vit_b_16" else SIDES[-1:]:
            images = torch.rand(IMAGES, 3, side, side)
            found.append({"network": name, "side": side})
            for work in (forward, both):
                found[-1] |= ratios(work, network, images)
            if 4 * IMAGES * side**2 > AT_ONCE:
                found[-1]["parts"] = parts(network, images.repeat(4, 1, 1, 1))
            print(found[-1], flush=True)
    write_result("memory_layout", {"images": IMAGES, "ratios": found}, options.results)


if __name__ == "__main__":
    main()
