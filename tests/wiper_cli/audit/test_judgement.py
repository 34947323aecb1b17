import subprocess
import sys
from dataclasses import dataclass, field

import pytest

from wiper_cli.audit.judgement import MOST_SUSPECTS, judge
from wiper_cli.verdict import Severity, Verdict


@dataclass
class Found:
    target: int
    facts: dict


@dataclass
class Piece:
    name: str
    statistic: float | None = None
    threshold: float | None = None
    target: int | None = None
    ran: bool = True
    reason: str = ""
    threshold_origin: str = "chosen on eight networks"
    false_alarm_rate: float | None = None
    per_class: tuple = ()
    suspects: tuple = ()
    recovered: tuple = field(default=())

    @property
    def fired(self):
        return self.ran and self.target is not None


def margin(target=None, statistic=9.0):
    return Piece("max-margin", statistic if target is not None else 1.0, 4.0, target)


def warp(target=None, success=0.6):
    works = (Found(target, {"success": success, "images": 100}),) if target is not None else ()
    return Piece("warp-inversion", success if works else 0.2, 0.5, target, recovered=works)


def square(target=None, success=0.8):
    works = (Found(target, {"success": success, "images": 100}),) if target is not None else ()
    return Piece("square-probe", success if works else 0.3, 0.75, target, recovered=works)


def blind(name="max-margin"):
    return Piece(name, ran=False, reason="it needs gradients")


TABLE = [
    # evidence, verdict, {rule: severity}, accused
    ([margin(), warp(), square()], Verdict.NO_FINDING, {}, ()),
    ([margin(3), warp(), square()], Verdict.SUSPICIOUS, {"WIPER-B01": "high"}, (3,)),
    ([margin(), warp(3), square()], Verdict.SUSPICIOUS, {"WIPER-B02": "high"}, (3,)),
    ([margin(), warp(3, 0.9), square()], Verdict.SUSPICIOUS, {"WIPER-B02": "critical"}, (3,)),
    ([margin(), warp(), square(3)], Verdict.SUSPICIOUS, {"WIPER-B03": "high"}, (3,)),
    ([margin(), warp(), square(3, 0.99)], Verdict.SUSPICIOUS, {"WIPER-B03": "critical"}, (3,)),
    (
        [margin(3), warp(), square(3)],
        Verdict.SUSPICIOUS,
        {"WIPER-B01": "high", "WIPER-B03": "critical"},
        (3,),
    ),
    ([margin(2), warp(), square(3)], Verdict.SUSPICIOUS, {"WIPER-B01": "high", "WIPER-B03": "high"}, (2, 3)),
    ([blind(), blind("warp-inversion"), square()], Verdict.INCOMPLETE, {}, ()),
    ([blind(), blind("warp-inversion"), square(3)], Verdict.SUSPICIOUS, {"WIPER-B03": "high"}, (3,)),
    ([blind(), blind("warp-inversion"), blind("square-probe")], Verdict.INCOMPLETE, {}, ()),
    ([], Verdict.INCOMPLETE, {}, ()),
    ([square()], Verdict.NO_FINDING, {}, ()),
]


@pytest.mark.parametrize(("evidence", "verdict", "findings", "accused"), TABLE)
def test_the_rule(evidence, verdict, findings, accused):
    judged = judge(evidence, 10)
    assert judged.verdict is verdict
    assert {finding.rule: finding.severity.word for finding in judged.findings} == findings
    assert judged.accused == accused
    assert judged.suspects[: len(accused)] == accused


def test_every_finding_states_statistic_threshold_origin_and_that_nothing_is_calibrated():
    for finding in judge([margin(3), warp(3), square(3)], 10, [f"Name{k}" for k in range(10)]).findings:
        shown = {"WIPER-B01": ("9.0", "4.0"), "WIPER-B02": ("60%", "50%"), "WIPER-B03": ("80%", "75%")}
        for piece in (*shown[finding.rule], "not calibrated", "Class 3 (Name3)"):
            assert piece in finding.message
        assert "chosen on eight networks" in finding.evidence["threshold_origin"]
        assert finding.place == {"class": 3}
        assert finding.evidence["target"] == 3


def test_the_worst_finding_stands_first():
    severities = [f.severity for f in judge([margin(3), warp(3, 0.95)], 10).findings]
    assert severities == [Severity.CRITICAL, Severity.HIGH]


@pytest.mark.parametrize(
    "evidence", [[], [blind()], [margin()], [margin(3)], [margin(), blind("square-probe")]]
)
def test_a_sentence_never_says_clean(evidence):
    sentence = judge(evidence, 10).sentence
    assert "clean" not in sentence.replace("clean images", "")
    assert sentence.endswith(".")


def test_the_reason_of_whatever_did_not_run_is_in_the_sentence():
    assert "max-margin did not run: it needs gradients" in judge([blind(), square()], 10).sentence


def test_weak_suspects_come_after_the_accused_nearest_to_a_threshold_first_and_few():
    quiet = Piece("warp-inversion", 0.4, 0.5, per_class=(0.1, 0.2, 0.4, 0.3, 0.0, 0.0), suspects=(2, 3, 1, 0))
    strong = Piece("max-margin", 8.0, 4.0, 5, per_class=(0, 0, 0, 0, 3.0, 8.0), suspects=(5, 4))
    judged = judge([quiet, strong], 6)
    assert judged.accused == (5,)
    assert judged.weak == (2, 4, 3)
    assert len(judged.suspects) == MOST_SUSPECTS
    assert judge([quiet], 6).suspects == (2, 3, 1, 0)


def test_success_on_another_class_does_not_make_a_finding_critical():
    piece = Piece("square-probe", 0.8, 0.75, 3, recovered=(Found(1, {"success": 1.0, "images": 50}),))
    (finding,) = judge([piece], 10).findings
    assert finding.severity is Severity.HIGH
    assert "success" not in finding.evidence


def test_it_needs_no_torch():
    check = "import sys, wiper_cli.audit.judgement, wiper_cli.detectors; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check]).returncode == 0
