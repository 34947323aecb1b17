"""What takes a scan's searches several times, or other programs, on the pretended device: canaries, rounds and
probes, the files of a specimen, and the bench; every search as short as it can be."""

import dataclasses

import pytest
import torch
from colours import write_images
from torch.utils._python_dispatch import _disable_current_modes

from wiper_cli.audit import canaries as canaries_
from wiper_cli.audit import detection
from wiper_cli.audit.requests import PurifyRequest, ScanRequest
from wiper_cli.audit.stories.purify import purify
from wiper_cli.audit.stories.scan import scan
from wiper_cli.bench import cells, running
from wiper_cli.bench.cells import Cell
from wiper_cli.bench.store import Place
from wiper_cli.commands.shared.example_files import example_folder
from wiper_cli.detectors import DETECTORS, PROBES
from wiper_cli.purifiers import METHODS
from wiper_cli.tables import load
from wiper_cli.verdict import Verdict
from wiper_cli.zoo import datasets, specimen
from wiper_cli.zoo.export import FILES
from wiper_cli.zoo.recipe import Recipe

pytestmark = pytest.mark.gpu
SCHEDULE = {"epochs": 1, "batch": 30, "lr": 0.05}
CLEAN = Recipe("colours", "resnet10-patch-w4", schedule=SCHEDULE)
BADNET = dataclasses.replace(CLEAN, attack="badnet", poisoning={"rate": 0.3, "target": 1})


@pytest.fixture
def short(monkeypatch):
    """Whoever searches with the effort ``quick`` takes the fields for a trial of seconds."""
    for kind in {*DETECTORS.values(), *(load(place) for place, _ in PROBES.values())}:
        if kind.efforts:
            monkeypatch.setattr(kind, "efforts", {**kind.efforts, "quick": kind.quick})


def test_canaries(job, short, monkeypatch):
    monkeypatch.setattr(canaries_, "SMALL_WORK", (4, 16))
    monkeypatch.setattr(canaries_, "TAKEN", -1.0)
    monkeypatch.setattr(canaries_, "MOST_LOST", 1.0)
    request = job(
        ScanRequest,
        model=example_folder() / "twin.safetensors",
        device="cuda",
        detectors=("square-probe",),
        effort="quick",
        canaries=3,
    )
    answer = scan(request)
    assert answer.verdict is Verdict.NO_FINDING
    assert [one["family"] for one in answer.detection["canaries"]] == ["badnet", "wanet", "blend"]


@pytest.mark.slow
def test_rounds_and_probes(job, short, monkeypatch):
    few = {name: PROBES[name] for name in ("squares elsewhere", "faint patterns from other starts")}
    monkeypatch.setattr("wiper_cli.detectors.PROBES", few)
    monkeypatch.setattr(detection, "SAMPLED", 2 * detection.HELD_BACK)
    request = job(
        PurifyRequest,
        device="cuda",
        method=METHODS["unlearn"](**METHODS["unlearn"].quick),
        detectors=("square-probe", "shape-probe"),
        effort="quick",
        max_rounds=2,
        max_accuracy_drop=0.5,
    )
    answer = purify(request)
    first, second = answer.purification["rounds"]
    assert first["measured"] > 0
    assert second["unlearned"] > first["unlearned"] > 0
    assert {one["name"] for one in answer.verification["probes"]} == set(few)
    assert all(one["ran"] for one in answer.verification["probes"])


@pytest.fixture
def traced_elsewhere(monkeypatch):
    """Tracers run as they are without the pretended device: they cannot trace where every call is looked at. What they
    are given has to lie on the CPU."""

    def apart(tracer):
        def run(network, *given, **named):
            assert all(type(value.data) is torch.Tensor for value in network.state_dict().values())
            with _disable_current_modes(), torch._C.DisableTorchFunction():
                return tracer(network, *given, **named)

        return run

    for module, name in ((torch.jit, "trace"), (torch.jit, "freeze"), (torch.onnx, "export")):
        monkeypatch.setattr(module, name, apart(getattr(module, name)))


@pytest.fixture
def zoo(colours, tmp_path, traced_elsewhere):
    """Of a BadNet and its twin, made on the device; 40 clean images a class."""
    data, folder, twin = datasets.load(str(colours)), tmp_path / "zoo", tmp_path / "zoo" / CLEAN.id
    specimen.make(CLEAN, data, twin, None, torch.device("cuda"))
    made = specimen.make(BADNET, data, folder / BADNET.id, twin, torch.device("cuda"))
    assert made["device"] == "cuda"
    write_images(folder / "clean" / "colours", 40, 2)
    return folder


def test_a_specimen_has_all_its_files_and_the_bench_takes_each(zoo, colours, short, tmp_path, monkeypatch):
    assert {path.name for path in (zoo / BADNET.id).iterdir()} >= set(FILES)
    monkeypatch.setattr(cells, "SCANNED", ("square-probe",))
    monkeypatch.setattr(running, "SCANNED", ("square-probe",))
    place = Place(zoo, tmp_path / "results", colours.parent, "cuda", 1)
    quick = {name: tuple(METHODS[name].quick.items()) for name in ("fine-tuning", "unlearn", "ai-lancet")}
    asked = [
        *(Cell(BADNET.id, name, settings=own, test_images=18) for name, own in quick.items()),
        Cell(BADNET.id, "fine-tuning", settings=quick["fine-tuning"], test_images=18, watch=True, live=True),
        Cell(BADNET.id, "bs", "salience", test_images=18),
        *(Cell(BADNET.id, "fine-tuning", settings=quick["fine-tuning"], file=file, test_images=18)
          for file in FILES if file != "model.safetensors"),
    ]  # fmt: skip
    for cell in asked:
        found = running.run(cell, place)
        assert "refused" not in found, (cell.id, found["refused"])
        assert found["run"]["device"] == "cuda"
        assert cell.kind == "salience" or 0 < found["after"]["asr"]["n"] < 18
