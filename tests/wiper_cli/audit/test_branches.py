"""What a branch in the graph makes of a scan, in both formats, and what ends an examination that shows one."""

from dataclasses import replace

import pytest
import torch
from layered_branches import BRANCHES, Branched, InCondition, Served, layered
from small_classifiers import DIGITS, digits
from torch import Tensor, nn
from torchscript_files import as_bytes

from formats import read_source
from triggers.architectural import implant
from triggers.families.badnet import BadNet
from wiper_cli.audit import branches
from wiper_cli.audit.branches import Branches
from wiper_cli.audit.judgement import Judgement
from wiper_cli.audit.requests import InspectRequest, PurifyRequest
from wiper_cli.audit.stories.purify import purify
from wiper_cli.audit.stories.scan import scan
from wiper_cli.audit.subject import Notes
from wiper_cli.verdict import ExitCode, Finding, Problem, Severity, Verdict

FILES = {"onnx": "model.onnx", "torchscript": "model.torchscript.pt"}
IMAGES = (digits() * 255).byte()
BRANCH = Finding("WIPER-G03", Severity.HIGH, "A path.")
NOTHING = Judgement(Verdict.NO_FINDING, "No finding: none.", (), (), ())


def asked(path):
    return InspectRequest(model=path)


@pytest.fixture(scope="session")
def branched(tmp_path_factory):
    """``branched(kind, variant)``: the digits with a branch towards 7."""

    def make(kind, variant):
        name = FILES[kind]
        path = tmp_path_factory.mktemp("branched") / name
        path.write_bytes(implant(kind, (DIGITS / name).read_bytes(), variant, BadNet().placed(1, 32, 32), 7))
        return path

    return make


@pytest.mark.parametrize(("kind", "variant"), [("onnx", "where"), ("torchscript", "stem-gate")])
def test_a_scan_shows_the_branch_beside_what_detectors_say(kind, variant, branched, job):
    found = scan(job(model=branched(kind, variant)))
    assert found.verdict is Verdict.SUSPICIOUS
    assert "its graph has a branch that no honest network has (WIPER-G0" in found.sentence
    first = next(one for one in found.findings if one.severity is Severity.CRITICAL)
    assert first.rule.startswith("WIPER-G0")
    assert "8 of 8 clean images are called class 7" in first.message
    assert (first.evidence["target"], first.evidence["answered"]) == (7, 8)
    assert set(first.pictures) == {"clean", "triggered", "difference"}
    assert first.path[0]["operator"] == "image"
    assert [step["mark"] for step in first.path].count("join") == 1
    assert len(first.path) <= branches.SHOWN
    assert {"graph", "agreement", "salience"} <= set(found.timing)


@pytest.mark.parametrize("variant", ["where", "conv"])
def test_no_purification_is_said_to_remove_a_branch(variant, branched, job):
    """Whatever may be accepted, and before any training."""
    with pytest.raises(
        Problem, match=r"^Not purified: its graph has a branch .* Nothing was written"
    ) as caught:
        purify(job(PurifyRequest, model=branched("onnx", variant), accept_unverified=True))
    assert (caught.value.exit_code, caught.value.verdict) == (ExitCode.NO_VERDICT, Verdict.SUSPICIOUS)
    assert {one.rule for one in caught.value.findings if one.severity is Severity.HIGH} >= {"WIPER-G08"}


@pytest.fixture
def layers(tmp_path):
    """``layers(kind, name)``: the digits with a branch of ordinary layers towards 7."""

    def make(kind, network):
        path = tmp_path / FILES[kind]
        path.write_bytes(layered(kind, network))
        return path

    return make


@pytest.mark.parametrize(("kind", "name"), [("onnx", "resize"), ("torchscript", "large window")])
def test_a_branch_of_ordinary_layers_is_told_from_layers_by_what_wakes_it(kind, name, layers, job):
    model = layers(kind, Branched(BRANCHES[name]()))
    found = scan(job(model=model))
    assert found.verdict is Verdict.SUSPICIOUS
    first, second = found.findings[:2]
    assert (first.rule, first.severity) == ("WIPER-G10", Severity.CRITICAL)
    assert "8 of 8 clean images are called class 7" in first.message
    assert first.evidence["louder"] > 1000
    assert first.evidence["pixels_share"] < 0.05
    assert [step["mark"] for step in first.path].count("join") == 1
    assert set(first.pictures) == {"clean", "triggered", "difference"}
    assert (second.rule, second.severity) == ("WIPER-G04", Severity.LOW)
    with pytest.raises(Problem, match=r"^Not purified: its graph has a branch .* \(WIPER-G10\)") as caught:
        purify(job(PurifyRequest, model=model, accept_unverified=True))
    assert caught.value.verdict is Verdict.SUSPICIOUS


def test_values_in_a_condition_leave_no_clean_verdict(layers, heard):
    path = layers("torchscript", InCondition(Branched(BRANCHES["resize"]())))
    told = branches.read(asked(path), heard, Notes()).confirm(Served(read_source(path)), IMAGES, [], heard)
    assert told.weigh(NOTHING)[0] is Verdict.INCOMPLETE
    assert "values that are joined to others could not be looked at" in told.reason


def test_a_few_pixels_alone_are_few_pixels(layers, heard):
    branch = BRANCHES["strided convolution"]()
    with torch.no_grad():
        branch.threshold.ask.bias.fill_(10.0)
        branch.threshold.ask.weight.fill_(1.0)
        branch.threshold.push.weight.mul_(1e-6)
    path = layers("onnx", Branched(branch))
    told = branches.read(asked(path), heard, Notes()).confirm(Served(read_source(path)), IMAGES, [], heard)
    # Shortcuts of one pixel in four, one behind the other, do so in an untrained network too.
    first = told.findings[0]
    assert (first.rule, first.severity) == ("WIPER-G07", Severity.LOW)
    assert first.message.startswith(
        "A value that is joined to others depends on 1.6 % of the pixels alone. No input"
    )


@pytest.mark.parametrize("name", [*FILES.values(), "model.safetensors"])
def test_honest_files_show_none(name, heard):
    notes = Notes()
    found = branches.read(asked(DIGITS / name), heard, notes)
    assert (found.findings, found.reason, notes.not_done) == ((), "", [])
    assert (found.flow is None) == name.endswith("safetensors")


def test_a_branch_is_told_where_the_images_do_not_fit(branched, job, tmp_path):
    (tmp_path / "0").mkdir()
    with pytest.raises(Problem, match=r"^Suspicious: its graph has a branch") as caught:
        scan(job(model=branched("onnx", "arithmetic"), clean=tmp_path))
    assert (caught.value.exit_code, caught.value.verdict) == (ExitCode.NO_VERDICT, Verdict.SUSPICIOUS)
    assert "WIPER-G03" in [one.rule for one in caught.value.findings]


def test_a_branch_that_nothing_opens_stays_as_grave_as_it_was(branched, heard, monkeypatch):
    found = branches.read(asked(branched("onnx", "arithmetic")), heard, Notes())
    monkeypatch.setattr(branches, "solve", lambda *_: (None, 5))
    told = found.confirm(None, None, [], heard)
    assert told.findings[0].message.endswith("No input that takes it was found in 5 passes.")
    assert [one.severity for one in told.findings] == [one.severity for one in found.findings]
    assert Branches().confirm(None, None, [], heard) == Branches()


def test_what_ends_an_honest_examination_is_told_as_it_is():
    with pytest.raises(Problem, match=r"^No image\.$"), Branches().told():
        raise Problem("No image.")


class TwoImages(nn.Module):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return x + y


def test_a_graph_that_cannot_be_followed_leaves_no_verdict(heard, tmp_path):
    (tmp_path / "m.pt").write_bytes(as_bytes(torch.jit.script(TwoImages().eval())))
    notes = Notes()
    found = branches.read(asked(tmp_path / "m.pt"), heard, notes)
    assert [one["what"] for one in notes.not_done] == ["the graph audit"]
    verdict, sentence = found.weigh(NOTHING)
    assert verdict is Verdict.INCOMPLETE
    assert sentence.startswith("No verdict: the graph could not be audited: ")


@pytest.mark.parametrize("rule", ["WIPER-G11", "WIPER-G12", "WIPER-G13"])
def test_a_branch_that_was_not_examined_leaves_no_clean_verdict(rule):
    unseen = Finding(rule, Severity.MEDIUM, "A branch was not examined: If 'y' asks.")
    verdict, sentence = Branches(None, (unseen,)).weigh(NOTHING)
    assert verdict is Verdict.INCOMPLETE
    assert sentence == "No verdict: A branch was not examined: If 'y' asks. No finding: none."
    fired = replace(NOTHING, verdict=Verdict.SUSPICIOUS, sentence="Suspicious: 3.")
    assert Branches(None, (unseen,)).weigh(fired) == (Verdict.SUSPICIOUS, "Suspicious: 3.")


def test_branch_and_detectors_are_told_together():
    fired = replace(NOTHING, verdict=Verdict.SUSPICIOUS, sentence="Suspicious: class 3.", findings=(BRANCH,))
    both = Branches(findings=(BRANCH,)).weigh(fired)
    assert both == (
        Verdict.SUSPICIOUS,
        "Suspicious: its graph has a branch that no honest network has (WIPER-G03): A path. Besides, class 3.",
    )
    assert Branches().weigh(NOTHING) == (NOTHING.verdict, NOTHING.sentence)
    low = Branches(findings=(replace(BRANCH, severity=Severity.LOW),))
    assert low.weigh(NOTHING)[0] is Verdict.NO_FINDING
