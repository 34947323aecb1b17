"""Images a second of every purifier beside the plain PyTorch loop of the same method, side by side in one run.

    python -m benchmarks.method_throughput --model ZOO/cifar10-resnet10-patch-w16-badnet-s1 --clean ZOO/clean/cifar10
        [--images 640] [--rounds 5] [--only fine-tuning ...]

A side is a whole run of the method, short: what it computes first, training, accuracy on the select part where the
method measures it, what it chooses at the end. The plain loops stand in ``benchmarks/plain``. Both read the same
settings and the same images, in float32 on one thread of the CPU; rounds alternate, and ``ratio`` is the median over
the rounds of plain seconds over ours: of processor time, in which other work on the machine counts little; wall clock
stands beside it. That both do the same work is counted apart from timing, on one more run each: ``work`` is
floating-point operations of ours over those of the plain loop (convolutions and matrix products, forward and
backward), ``forward_images`` what went forward through the network for whatever purpose, which is what images a second
count, ``steps`` the optimiser steps. ``ratio_per_operation`` is ``ratio`` times ``work``. The perturbations of
``unlearn`` exist nowhere else and are ours on both sides. CLP looks at no image and is left out.
"""

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from benchmarks.common import write_result
from benchmarks.plain import PLAIN
from benchmarks.plain.shared import Net
from formats import open_model, read_source
from triggers.store import load as load_trigger
from wiper_cli.classifier import Classifier
from wiper_cli.images.decode import Geometry
from wiper_cli.images.folder import read_folder
from wiper_cli.images.splits import Clean, Part
from wiper_cli.purifiers import METHODS
from wiper_cli.purifiers.contract import Task

#: Fields that make a run short, and choices that do not depend on what chance does to an accuracy: no early stop, one
#: candidate, every threshold tried.
SHORT: dict[str, dict[str, Any]] = {
    "unlearn": {"epochs": 1, "min_steps": 1, "warmup": 2},
    "wiper": {"epochs": 2},
    "fine-tuning": {"epochs": 2},
    "fine-pruning": {"epochs": 2},
    "kd": {"epochs": 4},
    "nad": {"epochs": 1, "teacher_epochs": 1},
    "i-bau": {"epochs": 1, "min_steps": 1},
    "ai-lancet": {"epochs": 1},
    "prune": {},
    "ft-sam": {"epochs": 1},
    "fst": {"epochs": 2},
    "anp": {"steps": 15, "budget": 1.0},
    "rnp": {"epochs": 3, "unlearn_epochs": 1, "unlearn_until": 0.0, "budget": 1.0},
    "sau": {"epochs": 1, "inner_steps": 2},
    "npd": {"epochs": 2},
    "bti-dbf": {"rounds": 1, "epochs": 1, "generator_epochs": 1},
    "ban": {"epochs": 1},
    "tsbd": {"epochs": 1, "share": 0.15, "min_steps": 1, "unlearn_epochs": 1, "unlearn_until": 0.0},
    "unit": {"steps": 10, "epochs": 1, "inner_steps": 1},
    "lmr": {"epochs": 1, "unlearn_epochs": 1, "unlearn_until": 0.0},
}
TRIGGERED = 16
REQUIRED = 0.9


def seconds(run: Callable[[], object]) -> tuple[float, float]:
    """(processor time, wall-clock time)."""
    began = time.process_time(), time.perf_counter()
    run()
    return time.process_time() - began[0], time.perf_counter() - began[1]


@dataclass(frozen=True)
class Work:
    """Floating-point operations, optimiser steps, images that went forward through the network."""

    operations: int
    steps: int
    forward: int


class Operations(TorchDispatchMode):
    """Counts below autograd by PyTorch's own formulas; its ready counter refuses hooks on nodes, which UNIT needs."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.total = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        value = func(*args, **(kwargs or {}))
        formula = flop_registry.get(func.overloadpacket)
        if formula is not None:
            self.total += formula(*args, **(kwargs or {}), out_val=value)
        return value


def counted(run: Callable[[], object], first: nn.Module) -> Work:
    """One run; ``first``: the module of the network as found that reads every image. Copies keep its hook."""
    count = [0, 0]

    def step(*_: object) -> None:
        count[0] += 1

    def forward(module: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> None:
        count[1] += len(output)

    handles = register_optimizer_step_post_hook(step), first.register_forward_hook(forward)
    with Operations() as operations:
        run()
    for handle in handles:
        handle.remove()
    return Work(operations.total, *count)


def residual(classifier: Classifier) -> Any:
    """The ResNet itself, behind the normalisation and the wrapper of its file."""
    assert classifier.network is not None
    return classifier.network.get_submodule("network.network")


def pair(name: str, classifier: Classifier, clean: Clean, triggered: Part) -> dict[str, Callable[[], object]]:
    """Ours and the plain loop, each a whole run from the network as found."""
    settings = METHODS[name](**SHORT[name])  # type: ignore[call-arg]
    extra = {"triggered": triggered} if "triggered" in settings.needs else {}

    def ours() -> object:
        return settings.run(Task(classifier, clean, **extra))

    def plain() -> object:
        return PLAIN[name](
            Net(residual(classifier), classifier.mean, classifier.std), clean, settings, **extra
        )

    return {"ours": ours, "plain": plain}


def measured(sides: dict[str, Callable[[], object]], first: nn.Module, rounds: int) -> dict[str, Any]:
    """Counts, which warms up, then times."""
    torch.manual_seed(0)
    work = {side: counted(run, first) for side, run in sides.items()}
    spent: dict[str, list[tuple[float, float]]] = {side: [] for side in sides}
    for turn in range(rounds):
        for side in sides if turn % 2 == 0 else reversed(sides):
            spent[side].append(seconds(sides[side]))
    processor, wall = (
        [plain[clock] / ours[clock] for ours, plain in zip(spent["ours"], spent["plain"], strict=True)]
        for clock in (0, 1)
    )
    share = work["ours"].operations / work["plain"].operations
    middle = {side: statistics.median(one[0] for one in spent[side]) for side in sides}
    ratio = statistics.median(processor)
    return {
        "ratio": round(ratio, 3),
        "ratios": [round(value, 3) for value in processor],
        "ratio_wall_clock": round(statistics.median(wall), 3),
        "work": round(share, 3),
        "ratio_per_operation": round(ratio * share, 3),
        "seconds": {side: round(value, 3) for side, value in middle.items()},
        "images_per_second": {side: round(work[side].forward / value) for side, value in middle.items()},
        "forward_images": {side: one.forward for side, one in work.items()},
        "steps": {side: one.steps for side, one in work.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--clean", type=Path, required=True)
    parser.add_argument("--images", type=int, default=640)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="*", choices=list(SHORT), default=list(SHORT))
    option = parser.parse_args()
    torch.set_num_threads(1)
    manifest = json.loads((option.model / "manifest.json").read_text())
    model = open_model(read_source(option.model / "model.safetensors"))
    classifier = Classifier(model, tuple(manifest["mean"]), tuple(manifest["std"]))
    whole = read_folder(option.clean, len(manifest["classes"]), manifest["classes"]).load(Geometry(3, 32, 32))
    order = torch.randperm(len(whole), generator=torch.Generator().manual_seed(0))
    few = option.images // 5
    places = (order[: option.images], order[option.images :][:few], order[option.images + few :][:few])
    clean = Clean(*(Part(whole.images[rows], whole.labels[rows]) for rows in places))
    trigger, _ = load_trigger(option.model / "trigger.safetensors")
    shown = clean.report.images[:TRIGGERED].float() / 255
    stamped = (trigger.stamp(shown) * 255).round().to(torch.uint8)
    triggered = Part(stamped, clean.report.labels[:TRIGGERED])

    methods, first = {}, residual(classifier).conv1
    for name in option.only:
        methods[name] = measured(pair(name, classifier, clean, triggered), first, option.rounds)
        print(name, methods[name], file=sys.stderr, flush=True)
    result = {
        "specimen": manifest["id"],
        "settings": {"images": option.images, "select": few, "rounds": option.rounds, "short": SHORT},
        "clock": "processor time",
        "machine_busy_with_other_work": os.getloadavg()[0] > 1.5,
        "required": REQUIRED,
        "below": [name for name, found in methods.items() if found["ratio"] < REQUIRED],
        "methods": methods,
    }
    write_result("method_throughput_cpu", result)


if __name__ == "__main__":
    main()
