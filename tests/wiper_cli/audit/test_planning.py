"""What a scan says that it will do: a function of model, images and effort; a clock is asked for the price alone."""

import dataclasses
from typing import get_args

import pytest
import torch
from torch import nn

from wiper_cli.audit import planning
from wiper_cli.audit.pipeline import run
from wiper_cli.audit.planning import planned
from wiper_cli.audit.requests import Asked, PlanRequest
from wiper_cli.audit.stories.scan import scan
from wiper_cli.detectors import DETECTORS, PROBES, probes
from wiper_cli.detectors.effort import EFFORTS, Cost, Extent
from wiper_cli.detectors.square_probe import SquareProbe
from wiper_cli.images.splits import Clean, Part
from wiper_cli.verdict import Verdict


@pytest.fixture
def price(monkeypatch):
    """``price(forward, backward)``: what a pass costs from now on."""

    def fix(forward, backward):
        monkeypatch.setattr(planning, "_cost", lambda *_: Cost(forward, backward, 1 << 30))

    return fix


def test_the_most_that_fits_into_the_budget_is_chosen(planted, planted_clean, price):
    price(0.001, 0.001)
    model, names = planted(), tuple(DETECTORS)
    needed = {e: planned(model, planted_clean, names, e) for e in EFFORTS}
    seconds = {e: plan.cost.seconds(plan.plans) for e, plan in needed.items()}
    assert seconds["quick"] < seconds["normal"] < seconds["thorough"]
    for effort in EFFORTS:
        found = planned(model, planted_clean, names, "normal", budget=seconds[effort] + 0.001)
        assert (found.effort, found.detectors) == (effort, needed[effort].detectors)
        assert "fits into" in found.why
    found = planned(model, planted_clean, names, "thorough", budget=seconds["quick"] / 2)
    assert found.effort == "quick"
    assert "even this is expected to take more" in found.sentence
    assert found.as_dict()["budget"] == seconds["quick"] / 2


def test_what_is_done_does_not_depend_on_what_it_costs(planted, planted_clean, price):
    plans = []
    for cost in (1e-6, 100.0):
        price(cost, cost)
        plans.append(planned(planted(), planted_clean, tuple(DETECTORS)))
    assert plans[0].plans == plans[1].plans
    assert plans[0].detectors == plans[1].detectors
    assert plans[0].sentence != plans[1].sentence


class Large(nn.Module):
    """Three classes by the mean of the channels, for any size or, with a linear layer on all pixels, for one."""

    def __init__(self, sides=()):
        super().__init__()
        self.sides = sides
        self.conv = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x):
        if self.sides and x.shape[-1] not in self.sides:
            raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")
        return self.conv(x).relu().mean((2, 3))


def photographs(count, side):
    images = torch.randint(0, 256, (count, 3, side, side), generator=torch.Generator().manual_seed(0)).byte()
    return Clean(*(Part(images, torch.arange(count) % 3) for _ in range(3)))


@pytest.mark.parametrize(
    ("side", "only", "resolution"),
    [(192, (), 0.5), (192, (192,), 1.0), (192, (192, 144), 0.75), (160, (), 0.75), (120, (), 1.0)],
)
def test_large_images_are_reduced_where_the_network_takes_them(planted, side, only, resolution):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = Large(only)
    found = planned(planted(network=network, classes=3), photographs(20, side), ["square-probe"])
    assert found.extent.resolution == resolution
    assert found.detectors["square-probe"].resolution == resolution


def test_only_shorter_searches_ask_in_bfloat16(planted, price, monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    price(0.001, 0.001)
    model = planted(network=Large(), classes=3)
    for effort, low in (("quick", True), ("thorough", False), ("normal", True)):
        found = planned(model, photographs(20, 96), ["square-probe"], effort)
        assert (found.as_dict()["bfloat16"], model.network.low[0]) == (low, low)
    budget = found.cost.seconds(found.plans) * 1000
    found = planned(model, photographs(20, 96), ["square-probe"], "quick", budget)
    assert (found.effort, model.network.low[0]) == ("thorough", False)


def test_a_batch_holds_what_memory_was_set_aside_for(planted, planted_clean):
    """The network keeps for each image 64 maps of it, and what a deeper one keeps is more."""

    class Deep(nn.Module):
        def forward(self, x):
            x = x.repeat(1, 64, 1, 1)
            for _ in range(40):
                x = torch.sin(x)
            return x.mean((2, 3))[:, :6]

    small, large = planted(), planted(network=Deep())
    planned(small, planted_clean, ["square-probe"])
    planned(large, planted_clean, ["square-probe"])
    assert small.batch == 256
    assert 4 <= large.batch <= planning.BATCH_BYTES / (40 * 4 * 3 * 64 * 1024) + 1


def test_the_plan_alone(job, heard):
    found = run(job(PlanRequest, detectors=("square-probe",), effort="quick"), heard)
    assert found.sentence.startswith("Effort quick (as asked): square-probe 10 classes, ")
    assert found.plan["detectors"][0]["forward"] > 1000
    assert not [stage for stage, *_ in heard.stages if stage == "square-probe"]


@pytest.mark.parametrize("fires", [True, False])
def test_what_stands_is_told_before_the_work_and_after_each_detector(job, heard, monkeypatch, fires):
    """The second detector never runs: the first one's finding is not lost, and nothing found is no verdict."""
    names = ("square-probe", "warp-inversion")

    class Stop(Exception): ...

    def stop(*_):
        raise Stop

    monkeypatch.setattr(DETECTORS["warp-inversion"], "run", stop)
    if not fires:
        real = SquareProbe.run
        monkeypatch.setattr(
            SquareProbe, "run", lambda *a: dataclasses.replace(real(*a), fired=False, target=None)
        )
    told = []
    with pytest.raises(Stop):
        scan(job(detectors=names, effort="quick"), heard, told.append)
    first, second = told
    assert not first.complete
    assert first.verdict is Verdict.INCOMPLETE
    assert first.plan.startswith("Effort quick")
    assert [one["ran"] for one in second.detection["detectors"]] == [True, False]
    assert second.verdict is (Verdict.SUSPICIOUS if fires else Verdict.INCOMPLETE)
    assert second.detection["plan"]["effort"] == "quick"
    ended = second.ended("It was interrupted.")
    assert ended.complete
    assert ended.sentence == (
        f"{second.sentence} It was interrupted."
        if fires
        else f"No verdict: It was interrupted. {second.sentence.removeprefix('No verdict: ')}"
    )
    assert "No verdict: It was" in second.ended("No verdict: It was not.").sentence or fires
    assert {"what": "the rest of the scan", "why": "It was interrupted."} in ended.not_done


@pytest.mark.parametrize(
    ("classes", "side", "effort"),
    [
        (10, 32, "thorough"),
        (64, 64, "thorough"),
        (65, 32, "normal"),
        (10, 96, "normal"),
        (1000, 224, "normal"),
    ],
)
def test_the_usual_effort_follows_from_classes_and_pixels(classes, side, effort):
    assert planning.usual(Extent(classes, 3, side, side + 8, 100, 100)) == effort


def test_every_effort_can_be_asked_for():
    assert get_args(Asked) == ("auto", *EFFORTS)


def test_an_effort_that_nobody_asked_for_is_explained(planted, planted_clean):
    found = planned(planted(), planted_clean, ["square-probe"])
    assert (found.effort, found.why) == ("thorough", "the usual one for 6 classes and images of 32x32")


def test_the_probes_of_a_purification_follow_the_effort(planted, planted_clean, price):
    """Thorough is what they were before any effort was known; less is less for each that is aimed at nobody, too."""
    price(0.001, 0.001)
    extent = Extent(1000, 3, 224, 224, 300, 100, head=True, resolution=0.5)
    thorough = planned(planted(), planted_clean, (), "thorough")
    assert thorough.probes([3]) == probes([3])
    work = {}
    for effort in EFFORTS:
        ahead = dataclasses.replace(thorough, effort=effort, extent=extent)
        work[effort] = {name: one.plan(extent) for name, one in ahead.probes(()).items()}
    for name in PROBES:
        passes = [work[effort][name].forward + work[effort][name].backward for effort in EFFORTS]
        assert passes == sorted(set(passes)), name
    normal = dataclasses.replace(thorough, effort="normal", extent=extent).probes([3, 4])
    assert (normal["coarser warp"].targets, normal["coarser warp"].grid) == ((3, 4), 4)
    assert normal["squares elsewhere"].resolution == 0.5
    whole = dataclasses.replace(thorough, effort="normal", extent=dataclasses.replace(extent, resolution=1.0))
    assert whole.probes([3])["squares elsewhere"].resolution == 1.0
