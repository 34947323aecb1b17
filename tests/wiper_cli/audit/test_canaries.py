"""Known backdoors in copies of the user's model: planted, counted, looked for, and told."""

from dataclasses import dataclass

import pytest
import torch
from digits_network import classifier, clean, digits, opened, trained  # noqa: F401

from wiper_cli.audit import canaries as canaries_
from wiper_cli.audit.canaries import Canary, canaries, passes, power
from wiper_cli.audit.stories.scan import scan
from wiper_cli.audit.subject import SILENT
from wiper_cli.detectors.evidence import Evidence
from wiper_cli.detectors.shape_probe import ShapeProbe
from wiper_cli.rates import Rate
from wiper_cli.verdict import Verdict

HEADLESS = "They are planted by training, and this file was opened head-only."


@dataclass
class Seer:
    """Accuses the class that most images of select go to once a corner is white."""

    title: str = "seer"

    def run(self, classifier, clean, progress, seed):  # noqa: F811
        images = clean.select.images.clone()
        images[..., 4:7, 4:7] = 255
        answers = classifier.answers(images)
        top = int(answers.bincount().argmax())
        share = float((answers == top).double().mean())
        return Evidence("seer", True, statistic=share, threshold=0.7, fired=share > 0.7, target=top)


@pytest.fixture(autouse=True)
def a_white_patch(monkeypatch):
    patch = canaries_.Kind(
        "badnet", {"corner": "bottom-right", "pattern": "white"}, {"size": 12, "margin": 4}
    )
    large = canaries_.Kind("badnet", lengths={"size": 64})  # finds no room
    monkeypatch.setattr(canaries_, "KINDS", (large, patch))
    monkeypatch.setattr(canaries_, "SMALL_WORK", (150, 64))


def test_a_backdoor_is_planted_in_a_copy_and_found(classifier, clean):  # noqa: F811
    before = {name: value.clone() for name, value in classifier.network.state_dict().items()}
    (found,) = canaries(classifier, clean, {"seer": Seer()}, 1, 0, SILENT)
    assert (found.family, found.fired, found.counts) == ("badnet", ("seer",), True)
    assert found.asr.share >= 0.8
    assert found.lost <= 0.05
    assert found.parameters["size"] == 3  # 12 of 32 pixels, on images of 8
    again = canaries(classifier, clean, {"seer": Seer()}, 1, 0, SILENT)
    assert again == [found]
    after = classifier.network.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_what_did_not_take_is_told_and_tried_again(classifier, clean, monkeypatch):  # noqa: F811
    monkeypatch.setattr(canaries_, "SMALL_WORK", (1, 8))
    found = canaries(classifier, clean, {"seer": Seer()}, 2, 0, SILENT)
    assert len(found) == 2  # of four tries, two without room
    assert not any(one.counts or one.fired for one in found)
    assert "no known backdoor could be planted" in power(found)


def test_a_network_that_gives_no_gradients_keeps_its_verdict_and_has_no_canaries(
    quantised_file, job, heard, monkeypatch
):
    monkeypatch.setattr(ShapeProbe, "run", lambda *_: Evidence("", True, statistic=0.0, threshold=0.45))
    found = scan(job(model=quantised_file, canaries=1, detectors=("shape-probe",), effort="quick"), heard)
    assert found.verdict is Verdict.NO_FINDING
    assert found.detection["canaries"] is None
    assert {"what": "canaries", "why": HEADLESS} in [*found.not_done]


def canary(family, fired, hits=90, lost=0.0):
    return Canary(family, family, {}, 1, Rate(hits, 100), lost, fired)


@pytest.mark.parametrize(
    ("planted", "end"),
    [
        ([canary("badnet", ("x",)), canary("blend", ())], "of 2 … 1 (missed: blend)"),
        ([canary("badnet", ()), canary("badnet", ())], "of 2 … none (missed: badnet)"),
        ([canary("badnet", ("x",)), canary("eta", (), hits=79)], "of 1 … 1"),
        ([canary("badnet", ("x",)), canary("eta", (), lost=0.06)], "of 1 … 1"),
    ],
)
def test_the_clause_counts_what_took_alone(planted, end):
    assert power(planted) == end.replace("…", "known backdoors planted in copies of the network it found")


def test_a_silent_scan_says_what_it_would_have_found(job, heard):
    found = scan(job(canaries=1, detectors=("warp-inversion",), effort="quick"), heard)
    assert found.verdict is Verdict.NO_FINDING
    assert found.sentence.startswith("No finding, and ")
    (row,) = [one for one in found.detection["canaries"] if one["counts"]]
    assert row["fired"] in ([], ["warp-inversion"])
    assert f"it found {1 if row['fired'] else 'none'}" in found.sentence
    assert "each of 1 canaries" in found.plan


@pytest.mark.parametrize("detectors", [(), ("square-probe",)], ids=["no verdict", "finding"])
def test_a_scan_that_was_not_silent_plants_none(job, heard, detectors):
    found = scan(job(canaries=1, detectors=detectors, effort="quick"), heard)
    assert found.verdict is (Verdict.SUSPICIOUS if detectors else Verdict.INCOMPLETE)
    assert found.detection["canaries"] is None
    assert any(one["what"] == "canaries" for one in found.not_done)


def test_their_work_is_counted():
    assert passes(0, 32) == (0, 0)
    small, large = passes(2, 95), passes(2, 96)
    assert small == (2 * 150 * 64, 4 * 150 * 64)
    assert large == (2 * 200 * 32, 4 * 200 * 32)
