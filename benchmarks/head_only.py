"""How long purifying the head alone takes on 2,500 images of 32x32, after the pass that computes the features.

    python -m benchmarks.head_only [--threads 2]

Both methods that can train the head alone, ten epochs each, through the whole purifier. The network is a
ResNet-18 of base width 16 with random weights (128 units) on noise; the work does not depend on what is seen.
"""

import argparse
import time

import torch

from benchmarks.common import opened, write_result
from wiper_cli.classifier import Classifier
from wiper_cli.images.splits import Clean, Part
from wiper_cli.purifiers.contract import Task
from wiper_cli.purifiers.methods.fine_tuning import FineTuning
from wiper_cli.purifiers.methods.wiper import Wiper
from wiper_cli.zoo import architectures

IMAGES, LIMIT_SECONDS = 2500, 30.0


class Timed(Classifier):
    """Adds up the time that its features took."""

    spent = (0.0, 0.0)

    def features(self, images: torch.Tensor, batch: int = 256) -> tuple[torch.Tensor, torch.Tensor]:
        wall, processor = time.perf_counter(), time.process_time()
        found = super().features(images, batch)
        self.spent = (
            self.spent[0] + time.perf_counter() - wall,
            self.spent[1] + time.process_time() - processor,
        )
        return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    option = parser.parse_args()
    torch.set_num_threads(option.threads)
    generator = torch.Generator().manual_seed(0)
    network = architectures.find("resnet18-w16").build(10, 3).eval()
    architectures.initialise(network, generator)
    classifier = Timed(opened(network), (0.5,) * 3, (0.5,) * 3)
    pixels = torch.randint(0, 256, (IMAGES, 3, 32, 32), generator=generator, dtype=torch.uint8)
    part = Part(pixels, torch.randint(0, 10, (IMAGES,), generator=generator))
    clean = Clean(fit=part, select=Part(pixels[:500], part.labels[:500]), report=part)
    taken = {}
    for settings in (FineTuning(train="head"), Wiper(train="head")):
        classifier.spent = (0.0, 0.0)
        wall, processor = time.perf_counter(), time.process_time()
        settings.run(Task(classifier, clean))
        wall, processor = time.perf_counter() - wall, time.process_time() - processor
        taken[settings.name] = {
            "epochs": settings.epochs,
            "features_wall": round(classifier.spent[0], 2),
            "after_features_wall": round(wall - classifier.spent[0], 2),
            "after_features_cpu": round(processor - classifier.spent[1], 2),
        }
    write_result(
        "head_only", {"settings": {"images": IMAGES}, "limit_seconds": LIMIT_SECONDS, "seconds": taken}
    )


if __name__ == "__main__":
    main()
