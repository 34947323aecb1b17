"""What every detector and every probe keeps, over their tables: nothing here names one."""

import dataclasses
import itertools
import json
import subprocess
import sys
import time

import pytest
import torch

from wiper_cli.audit.judgement import judge
from wiper_cli.detectors import DETECTORS, PROBES, probes
from wiper_cli.detectors.effort import EFFORTS, Extent
from wiper_cli.detectors.evidence import check
from wiper_cli.progress import silent
from wiper_cli.rules import RULES, rule
from wiper_cli.tables import load
from wiper_cli.verdict import Severity

KINDS = {kind.name: kind for kind in (*DETECTORS.values(), *(load(place) for place, _ in PROBES.values()))}
every_detector = pytest.mark.parametrize("name", KINDS)


def quick(name):
    return KINDS[name](**KINDS[name].quick)


@pytest.mark.parametrize("name", DETECTORS)
def test_it_keeps_the_contract_and_has_one_place(name):
    kind = DETECTORS[name]
    assert check(name, kind) is kind
    assert kind.__module__ == f"wiper_cli.detectors.{name.replace('-', '_')}"
    assert rule(kind.rule.id) is kind.rule is RULES[kind.rule.id]
    assert kind.rule.severity >= Severity.HIGH
    assert [other.rule.id for other in DETECTORS.values()].count(kind.rule.id) == 1


def test_no_detector_loads_a_trigger_and_no_settings_load_torch():
    code = (
        "import sys; from importlib import import_module; from wiper_cli.detectors import DETECTORS\n"
        "kinds = list(DETECTORS.values()); print({'torch', 'numpy'} & sys.modules.keys())\n"
        "[import_module(f'{kind.__module__}.method') for kind in kinds]; print('triggers' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["set()", "False"]


@every_detector
def test_an_honest_network_is_left_alone(planted, planted_clean, name):
    evidence = KINDS[name]().run(planted(), planted_clean, silent, 0)
    assert evidence.ran
    assert not evidence.fired
    assert evidence.target is None
    assert bool(evidence.suspects) is KINDS[name].names_class
    assert judge([dataclasses.replace(evidence, name=next(iter(DETECTORS)))], 6).findings == ()


@every_detector
def test_evidence_says_all_twice_alike_and_never_looks_at_the_report_part(planted, planted_clean, part, name):
    seen = []
    model = planted("square")
    first = quick(name).run(model, planted_clean, lambda *what: seen.append(what), 5)
    nonsense = dataclasses.replace(planted_clean, report=part(10, 99))
    second = quick(name).run(model, nonsense, silent, 5)
    assert first.ran
    assert (first.name, first.title) == (name, KINDS[name].title)
    assert first.fired == (first.statistic > first.threshold) == (first.target is not None)
    assert first.threshold_origin
    assert first.seconds > 0
    assert len(first.per_class) == 6
    assert set(first.suspects) <= set(range(6))
    assert {found.target for found in first.recovered} <= set(range(6))
    json.dumps(first.facts, allow_nan=False)
    assert first.per_class == second.per_class
    assert (first.statistic, first.suspects, first.facts) == (second.statistic, second.suspects, second.facts)
    assert all(stage == name and 0 <= done <= total for stage, done, total in seen)
    assert seen[-1][1] == seen[-1][2]


@every_detector
def test_where_it_cannot_look_it_says_why(planted, planted_clean, part, name):
    kind, fit = KINDS[name], planted_clean.fit
    broken = planted()
    with torch.no_grad():
        broken.network.network.scale[0] = torch.nan
    few = type(planted_clean)(part(9, 1), part(9, 2), part(9, 3))
    uneven = type(planted_clean)(part(13, 1), part(7, 2), part(4, 3))
    lonely = dataclasses.replace(planted_clean, fit=type(fit)(fit.images, fit.labels * 0))
    for model, images, words, looks in (
        (planted(head_only=True), planted_clean, "it needs gradients", not kind.needs_gradients),
        (planted(classes=1), planted_clean, "fewer than 2 classes", False),
        (planted(), few, "there are 9 to search on and 9 to score on", not kind.needs_images),
        (planted(), uneven, "there are 13 to search on and 7 to score on", not kind.needs_images),
        (planted(), lonely, "one class", not kind.needs_images),
        (broken, planted_clean, "not finite", False),
    ):
        evidence = quick(name).run(model, images, silent, 0)
        assert (evidence.ran, evidence.statistic is not None) == (looks, looks), words
        if not looks:
            assert words in evidence.reason
            judged = judge([dataclasses.replace(evidence, name=next(iter(DETECTORS)))], 6)
            assert evidence.reason in judged.sentence


@every_detector
def test_no_clock_decides_anything(planted, planted_clean, name, monkeypatch):
    """A machine on which every look at a clock takes an hour gives the same evidence to the last digit."""
    said = []
    model = planted("square")
    quiet = quick(name).run(model, planted_clean, lambda *what: said.append(what), 1)
    hours = itertools.count(0.0, 3600.0)
    for clock in ("monotonic", "perf_counter", "process_time", "time"):
        monkeypatch.setattr(time, clock, lambda: next(hours))
    said_late = []
    late = quick(name).run(model, planted_clean, lambda *what: said_late.append(what), 1)
    assert late.seconds >= 3600
    assert said == said_late
    same = [dataclasses.replace(one, seconds=0, recovered=()) for one in (quiet, late)]
    assert same[0] == same[1]
    for one, other in zip(quiet.recovered, late.recovered, strict=True):
        assert one.facts == other.facts
        assert all(torch.equal(value, other.parameters[key]) for key, value in one.parameters.items())


class Counted(torch.nn.Module):
    """Counts the images that pass forward, in pixels of whole ones, and those that are asked for a gradient."""

    def __init__(self, network):
        super().__init__()
        self.network, self.forward_, self.backward_ = network, 0.0, 0.0

    def forward(self, x):
        share = len(x) * x[0, 0].numel() / 1024
        self.forward_ += share
        self.backward_ += share if torch.is_grad_enabled() and x.requires_grad else 0
        return self.network(x)


@pytest.mark.parametrize("effort", EFFORTS)
@every_detector
def test_it_does_what_its_plan_says_and_no_more(planted, planted_clean, name, effort):
    network = planted("square").network.network
    model = planted(network=Counted(network))
    extent = Extent(6, 3, 32, 32, len(planted_clean.fit), len(planted_clean.select))
    settings = KINDS[name].at(effort, extent)
    plan = settings.plan(extent)
    settings.run(model, planted_clean, silent, 0)
    counted = model.network.network
    assert 0.7 * plan.forward <= counted.forward_ <= plan.forward
    assert 0.75 * plan.backward <= counted.backward_ <= plan.backward


@pytest.mark.parametrize("classes", [10, 1000])
@pytest.mark.parametrize("side", [32, 224])
@pytest.mark.parametrize("name", DETECTORS)
def test_more_effort_is_more_work(name, side, classes):
    extent = Extent(classes, 3, side, side, 300, 100, head=True, resolution=0.5 if side > 200 else 1.0)
    plans = [KINDS[name].at(effort, extent).plan(extent) for effort in EFFORTS]
    fixed = KINDS[name].at("quick", extent) == KINDS[name]()  # it has nothing to save
    for less, more in itertools.pairwise(plans):
        assert less.forward == more.forward if fixed else less.forward < more.forward
        assert less.backward <= more.backward
    assert KINDS[name].at("thorough", extent) == KINDS[name]()


def test_probes_differ_from_the_scan_and_are_aimed_at_the_suspects():
    for place, changes in PROBES.values():
        scan = load(place)()
        assert all(getattr(scan, name) != value for name, value in changes.items())
    found = probes((3, 1), threshold=0.5)
    assert list(found) == list(PROBES)
    aimed = [probe for probe in found.values() if hasattr(probe, "targets")]
    assert aimed
    assert all(probe.targets == (3, 1) for probe in aimed)
    assert all(probe.threshold == 0.5 for probe in found.values())
