import subprocess
import sys
from dataclasses import dataclass, field, replace

import pytest

from wiper_cli.audit.judgement import MOST_SUSPECTS, judge
from wiper_cli.audit.known_rates import NOT_CALIBRATED, KnownRate
from wiper_cli.rates import Rate
from wiper_cli.verdict import Finding, Severity, Verdict


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
    mapping: dict = field(default_factory=dict)

    @property
    def fired(self):
        return self.ran and (self.target is not None or bool(self.mapping))


def margin(target=None, statistic=9.0):
    return Piece("max-margin", statistic if target is not None else 1.0, 4.0, target)


def warp(target=None, success=0.6):
    works = (Found(target, {"success": success, "images": 100}),) if target is not None else ()
    return Piece("warp-inversion", success if works else 0.2, 0.5, target, recovered=works)


def square(target=None, success=0.8):
    works = (Found(target, {"success": success, "images": 100}),) if target is not None else ()
    return Piece("square-probe", success if works else 0.3, 0.75, target, recovered=works)


def mapped(success=0.8, classes=6):
    """All classes to the next one."""
    goals = {k: (k + 1) % classes for k in range(classes)}
    works = (Found(1, {"success": success, "images": 100}),)
    return Piece("class-map", success, 0.35, recovered=works, mapping=goals)


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
    assert (judged.accused, judged.suspects[: len(accused)]) == (accused, accused)


def test_a_finding_says_all_that_it_rests_on():
    worst, square_s, margin_s = judge([margin(1), warp(1, 0.95), square(1)], 2, ["0", "class"]).findings
    assert worst == Finding(
        "WIPER-B02",
        Severity.CRITICAL,
        "Class 1 (class) may be the target of a backdoor: one small warp sends clean images of other classes to it "
        "(warp-inversion 95%, threshold 50%, not calibrated). It does so with 95% of 100 held-out clean images. "
        "The same class was named by max-margin and square-probe.",
        {
            "detector": "warp-inversion", "statistic": 0.95, "threshold": 0.5,
            "threshold_origin": "chosen on eight networks", "false_alarm_rate": None, "target": 1,
            "success": 0.95, "images": 100, "agreeing": ["max-margin", "square-probe"],
        },
        {"class": 1},
    )  # fmt: skip
    shape = replace(square(1), name="shape-probe")
    more = judge([margin(1), warp(1, 0.95), square(1), shape], 2, ["0", "class"]).findings[0]
    assert more.message.endswith("was named by max-margin, square-probe and shape-probe.")
    assert "(square-probe 80%, threshold 75%, which is close, not calibrated)" in square_s.message
    assert "(max-margin 9.0, threshold 4.0, not calibrated). The same class" in margin_s.message
    assert not {"success", "images"} & set(margin_s.evidence)
    (alone,) = judge([margin(3, float("inf"))], 10).findings
    assert "(max-margin inf, threshold 4.0, not calibrated)" in alone.message
    honest = KnownRate(
        "thorough", (), (), (10, 10), "small", Rate(1, 4), Rate(), {"max-margin": (1.0, 5.0, 2.0, 0.0)},
        {"max-margin": Rate(1, 4)},
    )  # fmt: skip
    (known,) = judge([margin(3, 4.5)], 10, known=honest).findings
    assert "(max-margin 4.5, threshold 4.0, which is close, set by hand)" in known.message
    assert (known.evidence["false_alarm_rate"], known.evidence["p_value"]) == (0.25, 0.4)
    assert "agreeing" not in alone.evidence


def test_the_best_transform_of_the_class_is_what_counts():
    several = (
        Found(3, {"success": 0.95}),
        Found(3, {"success": 0.2}),
        Found(1, {"success": 1.0, "images": 50}),
    )
    (finding,) = judge([Piece("square-probe", 0.8, 0.75, 3, recovered=several)], 10).findings
    assert (finding.severity, finding.evidence["success"], finding.evidence["images"]) == (
        Severity.CRITICAL, 0.95, 0,
    )  # fmt: skip
    (finding,) = judge([Piece("square-probe", 0.8, 0.75, 3, recovered=several[2:])], 10).findings
    assert finding.severity is Severity.HIGH
    assert "success" not in finding.evidence
    useless = judge([margin(3), square(3, 0.0)], 10).findings
    assert {finding.severity for finding in useless} == {Severity.HIGH}


def test_the_worst_finding_stands_first():
    severities = [f.severity for f in judge([margin(3), warp(3, 0.95)], 10).findings]
    assert severities == [Severity.CRITICAL, Severity.HIGH]


@pytest.mark.parametrize(
    ("evidence", "sentence"),
    [
        ([], "No verdict: no detector was asked."),
        (
            [blind(), blind("square-probe")],
            "No verdict: max-margin, square-probe did not run: it needs gradients.",
        ),
        (
            [blind(), square()],
            f"No verdict: max-margin did not run: it needs gradients. What did run found nothing. {NOT_CALIBRATED}",
        ),
        (
            [margin()],
            "No finding: max-margin stayed under its threshold. "
            f"This does not show that the model has no backdoor. {NOT_CALIBRATED}",
        ),
        (
            [margin(), warp()],
            "No finding: max-margin, warp-inversion stayed under their thresholds. "
            f"This does not show that the model has no backdoor. {NOT_CALIBRATED}",
        ),
        (
            [blind(), margin(2), warp(2), margin(1, 8.0), square(3)],
            "Suspicious: the network behaves as if it had a backdoor towards class 2 (deer) (max-margin, "
            f"warp-inversion); class 1 (max-margin); class 3 (square-probe). {NOT_CALIBRATED}",
        ),
    ],
)
def test_the_sentence(evidence, sentence):
    assert judge(evidence, 10, ("0", "1", "deer")).sentence == sentence


def test_the_strongest_accusation_stands_first_whatever_its_scale():
    weaker = [Piece("max-margin", 0.0, 4.0, 5), Piece("max-margin", 9.0, 0.0, 6), margin(4, 0.4)]
    assert judge([*weaker, margin(2, 5.0), square(3, 0.99)], 10).accused == (3, 2, 4, 5, 6)


def test_weak_suspects_come_after_the_accused_nearest_to_a_threshold_first_and_few():
    quiet = Piece("warp-inversion", 0.4, 0.5, per_class=(0.1, 0.2, 0.4, 0.3, 0.0, 0.0), suspects=(2, 3, 1, 0))
    strong = Piece("max-margin", 8.0, 4.0, 5, per_class=(0, 0, 0, 0, 3.0, 8.0), suspects=(5, 4))
    judged = judge([quiet, strong], 6)
    assert (judged.accused, judged.weak, len(judged.suspects)) == ((5,), (2, 4, 3), MOST_SUSPECTS)
    assert judge([quiet, margin()], 6).suspects == (2, 3, 1, 0)
    short = Piece("square-probe", 0.3, 0.75, per_class=(0.0, 0.3, 0.0), suspects=(3, 1, 6, -1))
    assert judge([short], 6).weak == (1, 3)
    assert judge([margin(0), margin(1), warp(2), square(3), margin(4), short], 8).weak == ()


def test_it_needs_no_torch():
    check = "import sys, wiper_cli.audit.judgement, wiper_cli.detectors; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check]).returncode == 0


@pytest.mark.parametrize(
    ("statistic", "target", "said"),
    [
        (4.2, 3, "That is close: max-margin 4.2 against 4.0."),
        (3.9, None, "That is close: max-margin 3.9 against 4.0."),
        (9.0, 3, None),
        (1.0, None, None),
    ],
)
def test_a_statistic_close_to_its_threshold_is_said_to_be(statistic, target, said):
    judged = judge([Piece("max-margin", statistic, 4.0, target), warp(), square()], 10)
    assert (said in judged.sentence) if said else ("close" not in judged.sentence)
    for finding in judged.findings:
        assert finding.evidence.get("close", False) is bool(said)
        assert ("threshold 4.0, which is close" in finding.message) is bool(said)


def test_a_close_detector_beside_a_clear_one_is_no_close_verdict():
    judged = judge([Piece("max-margin", 4.2, 4.0, 3), warp(), square(3, 0.99)], 10)
    assert "That is close" not in judged.sentence


@pytest.mark.parametrize(("success", "severity"), [(0.8, "high"), (0.95, "critical")])
def test_a_map_accuses_no_class(success, severity):
    judged = judge([margin(), mapped(success)], 6, ["cat", "dog", "eel", "fox", "gnu", "hen"])
    assert judged.verdict is Verdict.SUSPICIOUS
    assert judged.accused == ()
    assert "had a backdoor from each class to another one (class-map)" in judged.sentence
    (finding,) = judged.findings
    assert (finding.rule, finding.severity.name.lower(), finding.place) == ("WIPER-B06", severity, {})
    assert "class 0 (cat) to class 1 (dog)" in finding.message
    assert finding.message.endswith("class 3 (fox) to class 4 (gnu) and 2 more.")
    assert finding.evidence["map"] == {k: (k + 1) % 6 for k in range(6)}


def test_a_map_beside_a_target():
    judged = judge([margin(3), mapped()], 6)
    assert judged.accused == (3,)
    assert "had a backdoor towards class 3 (max-margin) and from each class to another one (class-map)" in (
        judged.sentence
    )
