"""What a purification refuses before the long work, what methods are given, and what is said of the outcome."""

from types import SimpleNamespace

import pytest
import torch
from refusals import refused

from formats import Edit
from wiper_cli.audit.detection import pending
from wiper_cli.audit.known_rates import KnownRate
from wiper_cli.audit.requests import PurifyRequest
from wiper_cli.audit.stories import purify as story
from wiper_cli.audit.stories import shared
from wiper_cli.audit.stories.purify import purify
from wiper_cli.commands.shared.example_files import example_folder
from wiper_cli.detectors import DETECTORS
from wiper_cli.perturbations import Recovered
from wiper_cli.purifiers import METHODS
from wiper_cli.purifiers.contract import Purified
from wiper_cli.rates import Rate
from wiper_cli.verdict import ExitCode, Problem, Severity

DIGITS = example_folder()


@pytest.mark.parametrize("targets", [(10,), (0, 99)])
def test_a_target_out_of_range_is_refused_before_the_long_work(targets, purification, heard, nothing_long):
    with refused(f"--target {targets[-1]} is no class .* 10, from 0", ExitCode.USAGE):
        purify(purification(targets=targets, detectors=tuple(DETECTORS)), heard)


@pytest.mark.parametrize("method", ["unlearn", "fine-tuning"])
def test_head_only_files_refuse_methods_that_train_the_body(
    method, purification, heard, quantised_file, nothing_long
):
    asked = purification(model=quantised_file, method=METHODS[method](), detectors=tuple(DETECTORS))
    with refused("--method wiper --train head", ExitCode.NO_VERDICT):
        purify(asked, heard)


def test_live_batch_norm_reaches_the_edit(purification, heard):
    method = METHODS["fine-tuning"](epochs=1, lr=0.001)
    found = purify(purification(method=method, live=True), heard)
    assert any(name.endswith("running_mean") for name in found.edit.tensors)


@pytest.mark.parametrize(
    ("method", "file", "words"),
    [
        ("clp", "model.safetensors", "clp leaves batch norm frozen"),
        ("fine-tuning", "model.onnx", "needs a network whose batch norm"),
    ],
)
def test_live_batch_norm_is_refused_before_the_long_work(
    method, file, words, purification, heard, nothing_long
):
    with pytest.raises(Problem, match=words):
        purify(purification(model=DIGITS / file, method=METHODS[method](), live=True), heard)


def test_the_advice_for_head_only_files_works(purification, heard, quantised_file):
    method = METHODS["wiper"](train="head", epochs=1, lr=1.0)
    found = purify(purification(model=quantised_file, method=method), heard)
    assert (found.model["opened"], set(found.edit.tensors)) == ("head-only", {"fc", "classifier.bias"})


def test_no_linear_head_refuses_head_training(purification, heard, monkeypatch, nothing_long):
    real = story.prepare

    def headless(*arguments):
        subject = real(*arguments)
        subject.model.head = None
        return subject

    monkeypatch.setattr(story, "prepare", headless)
    with refused("leave out --train head", ExitCode.NO_VERDICT):
        purify(purification(), heard)


@pytest.fixture
def tasks(monkeypatch):
    """What methods are asked, which then change nothing."""
    found = []
    for method in ("ai-lancet", "fine-tuning"):
        monkeypatch.setattr(METHODS[method], "run", lambda _, task: found.append(task) or Purified(Edit({})))
    return found


def test_triggered_images_reach_the_method_that_needs_them(purification, heard, few_digits, tasks):
    method = METHODS["ai-lancet"]()
    with pytest.raises(Problem, match="give them with --triggered"):
        purify(purification(method=method), heard)
    purify(purification(method=method, triggered=few_digits), heard)
    assert len(tasks[0].triggered) > 0


def test_a_named_target_is_accused(purification, heard, tasks):
    found = purify(purification(targets=(4, 4, 2)), heard)
    assert (tasks[0].suspects, tasks[0].recovered) == ([4, 2], [])
    assert found.sentence.startswith("A backdoor towards class 4, class 2 was suspected. Not accepted: ")
    assert found.sentence.endswith(" Nothing was written.")
    assert found.purification["changed"] == []


def test_a_sample_is_unlearned_but_for_a_part_that_is_measured(purification, heard, tasks, monkeypatch):
    def stamp_at(row):
        mask = torch.zeros(1, 32, 32)
        mask[:, row] = 1
        return Recovered("patch", 4, {"canvas": torch.zeros(1, 32, 32), "mask": mask}, {"row": row})

    sampled = [stamp_at(1), stamp_at(2)], [stamp_at(3)]
    monkeypatch.setattr(story, "sample_of", lambda *what: sampled if what[2] == [4] else ([], []))
    monkeypatch.setattr(shared, "detect", lambda *_: pending({}, 10))
    monkeypatch.setattr(story, "detect", lambda *_: pending({}, 10))
    monkeypatch.setattr(story, "look_closely", lambda *_: ())
    found = purify(purification(targets=(4,), detectors=("square-probe",)), heard)
    assert [one.facts["row"] for one in tasks[0].recovered] == [1, 2]
    for when in ("before", "after"):
        assert [row["parameters"] for row in found.verification[when]["triggers"]] == [{"row": 3}]


def test_what_stands_is_told_and_nothing_of_it_can_be_written(purification, heard, monkeypatch):
    """Before the work, and after each round but the last; the stage says the round."""
    stages, told = [], []
    monkeypatch.setattr(shared, "detect", lambda *_: pending({}, 10))
    monkeypatch.setattr(story, "detect", lambda *_: pending({}, 10))
    monkeypatch.setattr(story, "look_closely", lambda *what: what[4]("few squares", 1, 1) or ())
    monkeypatch.setattr(story, "sample_of", lambda *_: ([], []))
    monkeypatch.setattr(type(heard), "__call__", lambda _, stage, *more: stages.append(stage))
    method = METHODS["unlearn"]
    monkeypatch.setattr(method, "run", lambda *_: Purified(Edit({})))
    asked = {"method": method(), "targets": (4,), "max_rounds": 2, "max_accuracy_drop": 0.5}
    found = purify(purification(**asked, detectors=("square-probe",)), heard, told.append)
    assert found.complete
    first, last = told
    assert first.plan.endswith("Rounds follow, 2 at most, of training and of a scan of what it made.")
    assert (first.verification, first.purification) == (None, None)
    assert len(last.purification["rounds"]) == 1
    for one in told:
        assert (one.complete, one.accepted, one.edit.tensors) == (False, False, {})
        ended = one.ended("It was interrupted.")
        assert not ended.accepted
        assert "Nothing was written." in ended.sentence
        assert {"what": "the rest of the purification", "why": "It was interrupted."} in ended.not_done
    assert [stage for stage in stages if stage.endswith("few squares")] == [
        "round 1 of up to 2: few squares", "round 2 of up to 2: few squares",
    ]  # fmt: skip


def test_a_refusal_is_a_finding_and_an_acceptance_is_none(purification, heard, tasks):
    found = purify(purification(), heard)
    (finding,) = found.findings
    assert (finding.rule, finding.severity) == ("WIPER-P01", Severity.HIGH)
    assert finding.message == found.purification["reason"] == found.verification["reason"]
    assert not found.accepted
    found = purify(purification(accept_unverified=True, max_accuracy_drop=0.5), heard)
    assert found.accepted
    assert found.findings == ()
    assert found.sentence == f"No backdoor was suspected. {found.purification['reason']}"


def test_how_often_backdoors_outlive_is_said_of_the_default_alone(purification):
    known = KnownRate("thorough", (), (), (1, 2), "two kinds", Rate(1, 40), Rate(2, 20))
    ahead, usual = SimpleNamespace(rate=known), METHODS["unlearn"]()
    assert story._removal(purification(method=usual), ahead) == known.removal
    assert story._removal(purification(method=usual), None) == ""
    assert story._removal(purification(method=usual), SimpleNamespace(rate=None)) == ""
    for change in (
        {},
        {"method": usual, "accept_unverified": True},
        {"method": usual, "max_accuracy_drop": 0.1},
    ):
        assert story._removal(purification(**change), ahead) == ""


def test_where_a_scan_finds_nothing_nothing_is_purified(job, heard, monkeypatch):
    asked = {"detectors": ("warp-inversion",), "effort": "quick", "max_accuracy_drop": 0.5}
    monkeypatch.setattr(story, "_round", None)  # never called
    with pytest.raises(Problem, match="The scan found nothing, so no purification") as raised:
        purify(job(PurifyRequest, **asked), heard)
    assert raised.value.exit_code is ExitCode.NO_VERDICT
    for more in ({"targets": (3,)}, {"accept_unverified": True}):
        with pytest.raises(TypeError):
            purify(job(PurifyRequest, **asked, **more), heard)
