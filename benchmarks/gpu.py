"""What wiper does on a CUDA device, measured by one command in bounded time.

    python -m benchmarks.gpu --work DIR --root DATA [--minutes 25] [--jobs 3]
    python -m benchmarks.gpu --work DIR --device cpu --smoke

DATA holds CIFAR-10. Five parts, one after the other: the tests for CUDA; the same scan and the same purification on the
CPU and on the device; throughput beside bare torch loops, alternating in one run; the table ``field`` with the default
purifier and the :func:`rivals`; the paper's Table 2 at full size. Each part has a share of the minutes, and the next
ones what it leaves. What was not reached is named in the result, and the same command goes on with it: what stands in
DIR is not run again while commit, versions and device are the same (``--minutes 0`` writes the result of what stands).
The result goes to ``benchmarks/results/gpu.json``, its page to ``docs/results/gpu.md``. Exit code 1: a test or a piece
failed, or the device disagrees with the CPU.

``--smoke`` runs every part at the smallest scale, to try the command itself, on a CPU too; its numbers mean nothing,
and stay in DIR.
"""

import argparse
import json
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol
from xml.etree import ElementTree

import torch

import triggers
from benchmarks.common import RESULTS, opened, write_result
from benchmarks.gpu_page import PAGE, bad, page
from benchmarks.method_throughput import SHORT, Operations
from wiper_cli.audit.measure import Stamper, measure
from wiper_cli.audit.requests import PurifyRequest, ScanRequest
from wiper_cli.audit.stories.purify import purify
from wiper_cli.audit.stories.scan import scan
from wiper_cli.audit.subject import SILENT, Notes, ready
from wiper_cli.bench import plans
from wiper_cli.bench.cells import DEFAULT, Cell
from wiper_cli.bench.matrix import SCALES, Grid, Treatment, recipes_of
from wiper_cli.bench.running import provenance
from wiper_cli.bench.standing import Standing
from wiper_cli.bench.store import Place, Store
from wiper_cli.bench.work import complete, status
from wiper_cli.classifier import Classifier
from wiper_cli.commands.shared.example_files import example_folder
from wiper_cli.detectors import DETECTORS
from wiper_cli.images.splits import Clean, Part
from wiper_cli.jobs.local import share_of_cores
from wiper_cli.progress import silent
from wiper_cli.purifiers import METHODS
from wiper_cli.purifiers.contract import Task
from wiper_cli.zoo import architectures, build
from wiper_cli.zoo.recipe import Recipe

ROOT = Path(__file__).resolve().parents[1]
NAME = "gpu"
#: Of the committed cells, which the rivals are taken from.
COMMITTED = Store(ROOT / "docs" / "results")
ROUNDS, BATCH = 3, 256
#: Most that two logits may differ, of the largest: convolutions on CUDA round to ten bits (TF32), many times over.
CLOSE = 1e-2
MEAN, STD = (0.49, 0.48, 0.45), (0.25, 0.24, 0.26)
#: What a smoke test trains, and on what.
SMALL = {"arch": "resnet10-patch-w4", "schedule": {"epochs": 1, "batch": 64, "lr": 0.05}}
DIGITS = "three-digits"


@dataclass(frozen=True)
class Setting:
    """``work``: folder of what stands. ``root``: where CIFAR-10 is looked for. ``jobs``: models at once."""

    work: Path
    root: Path | None = None
    device: str = "cuda"
    smoke: bool = False
    jobs: int = 1

    def same(self) -> dict[str, Any]:
        """What has to be the same for a piece that stands."""
        return {**provenance(self.device), "smoke": self.smoke, "threads": None}  # a cell may change those


Found = dict[str, Any]
Piece = Callable[[Setting], Found]


class PartOf(Protocol):
    """``run`` goes on with what is missing until :class:`TimeUp`; ``found`` says ``{done, failed, not_reached}``."""

    share: float

    def run(self, setting: Setting) -> None: ...
    def found(self, setting: Setting) -> Found: ...


class TimeUp(BaseException):
    """Not an error that a piece of work may catch."""


@contextmanager
def bounded(seconds: float) -> Iterator[None]:
    """:class:`TimeUp` after so many seconds, wherever the work inside is then; nothing is begun without any."""
    if seconds <= 0:
        raise TimeUp

    def ring(*_: object) -> None:
        raise TimeUp

    before = signal.signal(signal.SIGALRM, ring)
    clock = signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, *clock)
        signal.signal(signal.SIGALRM, before)


def say(sentence: str) -> None:
    print(sentence, file=sys.stderr, flush=True)


@dataclass(frozen=True)
class Pieces:
    """Independent pieces of work; each stands in a file as soon as it is done. One that fails stops no other, and is
    tried again by the next run."""

    share: float
    pieces: Mapping[str, Piece]

    def run(self, setting: Setting) -> None:
        for name, piece in self.pieces.items():
            if "failed" in self._read(setting, name, {"failed": ""}):
                began = time.perf_counter()
                try:
                    found = piece(setting)
                except Exception as error:
                    found = {"failed": f"{type(error).__name__}: {error}"}
                found["seconds_in_all"] = round(time.perf_counter() - began, 1)
                place = self._place(setting, name)
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_text(json.dumps({"same": setting.same(), "found": found}, indent=1) + "\n")
                say(f"{name}: {found.get('failed', 'done')} ({found['seconds_in_all']} s)")

    def found(self, setting: Setting) -> Found:
        every = {name: self._read(setting, name, {}) for name in self.pieces}
        return {
            "done": {name: one for name, one in every.items() if one and "failed" not in one},
            "failed": [f"{name}: {one['failed']}" for name, one in every.items() if "failed" in one],
            "not_reached": [name for name, one in every.items() if not one],
        }

    def _place(self, setting: Setting, name: str) -> Path:
        return setting.work / "pieces" / f"{name.replace(' ', '-')}.json"

    def _read(self, setting: Setting, name: str, otherwise: Found) -> Found:
        try:
            kept: Found = json.loads(self._place(setting, name).read_bytes())
        except (OSError, ValueError):
            return otherwise
        return kept["found"] if kept["same"] == json.loads(json.dumps(setting.same())) else otherwise


@dataclass(frozen=True)
class Suite:
    """Attacks of ``grid`` by ``treatments`` at a scale of ``wiper bench``: models trained by the zoo, cells run by the
    bench, ``jobs`` attacks at a time, so that there are whole columns when time is up."""

    share: float
    scale: str
    grid: Grid
    treatments: Sequence[Treatment]
    failures: list[str] = field(default_factory=list)

    def columns(self, setting: Setting) -> dict[str, tuple[Recipe, dict[str, Cell]]]:
        """By attack; one for a smoke test."""
        found = {}
        scale = SCALES[self.scale]
        for attack in self.grid.attacks[: 1 if setting.smoke else None]:
            recipe = attack.find(recipes_of(scale.suite), self.grid.data)
            assert recipe is not None, attack.title
            if setting.smoke:
                recipe = replace(recipe, data=DIGITS, **SMALL)
            cells = {one.title: one.cell(recipe.id, 1, scale) for one in self.treatments}
            if setting.smoke:
                cells = {title: _small(cell) for title, cell in cells.items()}
            found[attack.title] = recipe, cells
        return found

    def places(self, setting: Setting) -> tuple[build.Place, Place]:
        """The zoo's and the bench's."""
        root = setting.work if setting.smoke else setting.root
        zoo = setting.work / "zoo"
        threads = share_of_cores(setting.jobs) if setting.jobs > 1 else 0
        own = Place(zoo, setting.work / "bench", root, setting.device, threads, self.scale)
        return build.Place(zoo, root, device=setting.device), own

    def run(self, setting: Setting) -> None:
        self.failures.clear()
        zoo, place = self.places(setting)
        if setting.smoke:
            for one in "012":  # clean images, too: 5 % of so few could not be examined on
                for place_of in (setting.work / DIGITS, zoo.out / "clean" / DIGITS):
                    shutil.copytree(example_folder() / "clean" / one, place_of / one, dirs_exist_ok=True)
        columns = list(self.columns(setting).values())
        for first in range(0, len(columns), setting.jobs):
            chunk = columns[first : first + setting.jobs]
            recipes = {one.id: one for recipe, _ in chunk for one in (recipe.twin, recipe)}
            cells = [cell for _, own in chunk for cell in own.values()]
            failed = build.build(list(recipes.values()), zoo, setting.jobs, say=say)
            failed += complete(cells, place, setting.jobs, say=say)
            self.failures.extend(map(str, failed))

    def found(self, setting: Setting) -> Found:
        store, done, missed = self.places(setting)[1].store, dict[str, Found](), list[str]()
        for attack, (_, cells) in self.columns(setting).items():
            for title, cell in cells.items():
                outcome = store.read(cell)
                stands = status(cell, store, setting.work / "zoo") in ("stands", "refused")
                if outcome and stands and outcome["run"]["device"] == torch.device(setting.device).type:
                    own = done.setdefault(attack, {})
                    if "before" in outcome:
                        own.setdefault("Before", _shares(outcome["before"]))
                    own[title] = _row(outcome)
                else:
                    missed.append(f"{attack}: {title}")
        return {"done": done, "failed": list(self.failures), "not_reached": missed}


def _small(cell: Cell) -> Cell:
    quick = tuple(sorted(METHODS[cell.name].quick.items()))
    return replace(cell, preset=DEFAULT, settings=quick, test_images=50)


def _row(outcome: Mapping[str, Any]) -> Found:
    if "refused" in outcome:
        return {"refused": outcome["refused"]}
    return {**_shares(outcome["after"]), "seconds": outcome["seconds"]}


def _shares(side: Mapping[str, Any]) -> Found:
    return {key: round(100 * side[key]["value"], 2) for key in ("acc", "asr", "ra") if key in side}


def rivals(count: int = 5) -> list[Treatment]:
    """The strongest of the other methods: those with the highest mean DER over the ten attacks of ``field`` at tiny in
    the committed cells, each by the better of its presets; none that is shown triggered images."""
    grid, default = plans.TABLES["field"].grids[1], next(iter(METHODS))
    standing = Standing.read(plans.TABLES["field"], COMMITTED, (1,))
    ders: dict[str, list[float]] = {one.title: [] for one in grid.treatments}
    for entry in standing.entries(grid):
        ders[entry.treatment.title] += [one["der"] for one in standing.of(entry) if "der" in one]
    best: dict[str, tuple[float, Treatment]] = {}
    for one in grid.treatments:
        known = len(ders[one.title]) == len(grid.attacks)
        if known and one.name not in ("", default) and "triggered" not in METHODS[one.name]().needs:
            mean = statistics.fmean(ders[one.title])
            if one.name not in best or mean > best[one.name][0]:
                best[one.name] = mean, one
    return [one for _, one in sorted(best.values(), key=lambda pair: -pair[0])][:count]


def tested(setting: Setting) -> Found:
    """The tests marked ``gpu``, in a process of their own; for a smoke test one file of them."""
    place = setting.work / "tests.xml"
    place.unlink(missing_ok=True)
    where = "tests/wiper_cli/test_perturbations.py" if setting.smoke else "tests"
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", where]
    subprocess.run([*command, f"--junitxml={place}"], cwd=ROOT, stdout=sys.stderr, check=False)
    suite = ElementTree.parse(place).getroot()[0]
    counts = {key: int(suite.attrib[key]) for key in ("tests", "failures", "errors", "skipped")}
    cases = [one for kind in ("failure", "error") for one in suite.iterfind(f"testcase[{kind}]")]
    return {**counts, "failed_tests": [f"{one.get('classname')}.{one.get('name')}" for one in cases]}


def network_of(setting: Setting) -> torch.nn.Module:
    """With random weights, for images of 3x32x32."""
    network = architectures.find(SMALL["arch"] if setting.smoke else "resnet18").build(10, 3)
    architectures.initialise(network, torch.Generator().manual_seed(0))
    return network.eval()


def drawn(count: int) -> Part:
    """Noise, on the CPU."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, 3, 32, 32), generator=generator, dtype=torch.uint8)
    return Part(images, torch.randint(0, 10, (count,), generator=generator))


def same_logits(setting: Setting) -> Found:
    """One network on the CPU and on the device, in float32."""
    part = drawn(BATCH)
    here, there = (
        Classifier(opened(network_of(setting)), MEAN, STD, device).logits(part.images).cpu()
        for device in ("cpu", setting.device)
    )
    largest, apart = float(here.abs().max()), float((here - there).abs().max())
    same = int((here.argmax(1) == there.argmax(1)).sum())
    return {
        "largest_difference": apart,
        "decided": [f"logits up to {largest:.3g}", f"{same} of {len(part)} answers the same"],
        "agree": apart <= CLOSE * largest,
    }


def digits(setting: Setting, device: str) -> Found:
    """What a request about the digits has in common on either side."""
    model = example_folder() / "model.safetensors"
    found = {"model": model, "clean": example_folder() / "clean", "device": device, "effort": "quick"}
    return found | ({"detectors": ("square-probe",)} if setting.smoke else {})


def same_scan(setting: Setting) -> Found:
    """The digits that come along, scanned on either side: every statistic, and what follows from it."""
    answers = [scan(ScanRequest(**digits(setting, device))) for device in ("cpu", setting.device)]
    rows = [{one["name"]: one for one in answer.detection["detectors"]} for answer in answers]
    statistic = {name: [row[name]["statistic"] for row in rows] for name in rows[0]}
    decided = [
        (answer.verdict.value, answer.detection["suspects"][:1], [name for name in row if row[name]["fired"]])
        for answer, row in zip(answers, rows, strict=True)
    ]
    return {
        "decided": [
            f"{verdict}, class {suspects}, fired: {', '.join(fired)}" for verdict, suspects, fired in decided
        ],
        "statistics": statistic,
        "largest_difference": max(
            (abs(one - other) for one, other in statistic.values() if None not in (one, other)), default=0.0
        ),
        "agree": decided[0] == decided[1],
    }


def same_purification(setting: Setting) -> Found:
    """The digits purified by the default in one round on either side, and what that leaves of their true trigger, which
    is measured on the CPU."""
    kind = next(iter(METHODS.values()))
    attack = json.loads((example_folder() / "manifest.json").read_text())["attack"]
    more: Found = {}
    if setting.smoke:
        more = {"method": kind(**kind.quick), "detectors": (), "targets": (0,)}
    family, target = triggers.find(attack["trigger"]), attack["planting"]["target"]
    own = {key: attack[key] for key in ("size", "corner", "margin", "pattern", "seed")}
    subject = ready(ScanRequest(**digits(setting, "cpu")), SILENT, Notes())
    sides = []
    for device in ("cpu", setting.device):
        answer = purify(PurifyRequest(**{**digits(setting, device), **more}, max_rounds=1))
        left = measure(
            subject.classifier.with_edit(answer.edit),
            subject.everything(),
            [Stamper.of(family(**own), target)],
        )
        word = "accepted" if answer.accepted else "refused"
        sides.append(
            (answer.verdict.value, word, *(round(one.share, 4) for one in (left.acc, left.triggers[0].asr)))
        )
    here, there = sides
    return {
        "decided": [f"{verdict}, {accepted}; ACC {acc}, ASR {asr}" for verdict, accepted, acc, asr in sides],
        "largest_difference": max(abs(one - other) for one, other in zip(here[2:], there[2:], strict=True)),
        "agree": here[:2] == there[:2],
    }


def bare(kind: str, setting: Setting, part: Part, low: bool) -> Callable[[], None]:
    """A loop as one writes it over images that lie on the device: ``forward``, ``inversion`` (gradients of what is
    added to the images), ``training`` (gradients of the weights, and a step). ``low``: bfloat16 with channels last."""
    device = torch.device(setting.device)
    network = network_of(setting).to(device)
    if low:
        network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    for weight in network.parameters():
        weight.requires_grad_(kind == "training")
    optimiser = torch.optim.SGD(network.parameters(), lr=1e-3, momentum=0.9)
    batches = list(zip(part.images.to(device).split(BATCH), part.labels.to(device).split(BATCH), strict=True))
    mean, std = (torch.tensor(value, device=device).reshape(1, -1, 1, 1) for value in (MEAN, STD))

    def loop() -> None:
        for images, labels in batches:
            x = (images.float() / 255 - mean) / std
            delta = torch.zeros_like(x[:1], requires_grad=kind == "inversion")
            with (
                torch.set_grad_enabled(kind != "forward"),
                torch.autocast(device.type, torch.bfloat16, enabled=low),
            ):
                logits = network(x + delta)
            if kind != "forward":
                loss = torch.nn.functional.cross_entropy(logits.float(), labels)
                optimiser.zero_grad()
                torch.autograd.backward(loss)
            if kind == "training":
                optimiser.step()

    return loop


def throughput(kind: str, name: str = "") -> Piece:
    """Operations a second of ours and of the ``kind`` of :func:`bare` loop, in float32 and in bfloat16: convolutions
    and matrix products by PyTorch's own formulas, counted in a run apart, which warms up. ``ratios``: ours over bare.
    ``name``: of the detector or purifier, with the shortest settings that it has."""

    def piece(setting: Setting) -> Found:
        part, few = drawn(64 if setting.smoke else 4096), drawn(64 if setting.smoke else 512)
        classifier, clean = (
            Classifier(opened(network_of(setting)), MEAN, STD, setting.device),
            Clean(part, few, few),
        )

        def ours() -> object:
            if kind == "forward":
                return classifier.logits(part.images)
            if kind == "inversion":
                return DETECTORS[name](**DETECTORS[name].quick).run(classifier, clean, silent, 0)
            return METHODS[name](**SHORT[name]).run(Task(classifier, clean))

        sides = {"ours": ours, "bare, float32": bare(kind, setting, part, False)}
        sides["bare, bfloat16"] = bare(kind, setting, part, True)
        operations, spent = {}, {side: list[float]() for side in sides}
        for side, run in sides.items():
            with Operations() as counted:
                run()
            operations[side] = counted.total
        for turn in range(1 if setting.smoke else ROUNDS):
            for side in sides if turn % 2 == 0 else reversed(sides):
                spent[side].append(timed(sides[side], setting.device))
        speed = {side: operations[side] / statistics.median(spent[side]) for side in sides}
        return {
            "operations_a_second": {side: float(f"{value:.4g}") for side, value in speed.items()},
            "seconds": {side: round(statistics.median(spent[side]), 4) for side in sides},
            "ratios": {side: round(speed["ours"] / speed[side], 3) for side in sides if side != "ours"},
        }

    return piece


def timed(run: Callable[[], object], device: str) -> float:
    """Seconds until the device is done, too."""
    began = time.perf_counter()
    run()
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


def parts() -> dict[str, PartOf]:
    """In their order; the shares are minutes of 25."""
    default = Treatment(next(iter(METHODS)), next(iter(METHODS)), DEFAULT)
    table2, attacks = plans.TABLES["table2"].grids[0], plans.TABLES["field"].grids[1]
    return {
        "tests": Pieces(3, {"tests": tested}),
        "agreement": Pieces(2, {"logits": same_logits, "scan": same_scan, "purification": same_purification}),
        "throughput": Pieces(
            2,
            {
                "forward": throughput("forward"),
                **{name: throughput("inversion", name) for name in ("max-margin", "warp-inversion")},
                **{name: throughput("training", name) for name in ("fine-tuning", "unlearn", "i-bau")},
            },
        ),
        "field": Suite(10, "field", attacks, (default, *rivals())),
        "table2": Suite(8, "paper", table2, [one for one in table2.treatments if one.name]),
    }


def refusal(option: argparse.Namespace) -> str:
    """Why nothing can be run, or nothing."""
    if torch.device(option.device).type != "cuda":
        return (
            ""
            if option.smoke
            else f"What a GPU does is not measured with --device {option.device}; add --smoke."
        )
    if not torch.cuda.is_available():
        return "This machine has no CUDA device, so nothing was run; --device cpu --smoke tries the command itself."
    return ""


def main(given: Sequence[str] | None = None) -> int:
    """The exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--root", type=Path)
    parser.add_argument("--minutes", type=float, default=25)
    parser.add_argument("--jobs", type=int, default=3)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--smoke", action="store_true")
    option = parser.parse_args(given)
    if sentence := refusal(option):
        say(sentence)
        return 1
    option.work.mkdir(parents=True, exist_ok=True)
    jobs = 1 if option.smoke else option.jobs
    setting = Setting(option.work.resolve(), option.root, option.device, option.smoke, jobs)
    began, todo = time.monotonic(), parts()
    shares = sum(part.share for part in todo.values())
    for name, part in todo.items():
        left = 60 * option.minutes - (time.monotonic() - began)
        say(f"{name}: at most {max(0, left * part.share / shares):.0f} s")
        with suppress(TimeUp), bounded(left * part.share / shares):
            part.run(setting)
        shares -= part.share
    result = {
        "gpu": torch.cuda.get_device_name() if torch.device(option.device).type == "cuda" else None,
        "smoke": option.smoke,
        "minutes": option.minutes,
        "seconds": round(time.monotonic() - began),
        "parts": {name: part.found(setting) for name, part in todo.items()},
    }
    measured = bool(result["gpu"]) and not option.smoke
    write_result(NAME, result, RESULTS if measured else option.work)
    if measured:
        PAGE.write_text(page(json.loads((RESULTS / f"{NAME}.json").read_text())), encoding="utf-8")
    for sentence in bad(result):
        say(sentence)
    return 1 if bad(result) else 0


if __name__ == "__main__":
    raise SystemExit(main())
