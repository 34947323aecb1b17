"""Rounds of a purification: what another one knows, when there is one, and which of them stands."""

import json
from dataclasses import replace

import jsonschema
import pytest

from formats import Edit, NewTensor, open_model, read_source
from formats.tensors import to_bytes
from wiper_cli.audit import rounds
from wiper_cli.audit.detection import Detection
from wiper_cli.audit.judgement import Judgement
from wiper_cli.audit.measure import Measurement
from wiper_cli.audit.requests import PurifyRequest
from wiper_cli.audit.rounds import Finds, Look, Round
from wiper_cli.audit.stories import purify as story
from wiper_cli.audit.stories import shared
from wiper_cli.audit.stories.purify import purify
from wiper_cli.commands.shared.example_files import example_folder
from wiper_cli.detectors import DETECTORS, PROBE_SEED_OFFSET, probes
from wiper_cli.detectors.evidence import Evidence
from wiper_cli.perturbations import Recovered
from wiper_cli.purifiers import METHODS
from wiper_cli.purifiers.contract import Purified
from wiper_cli.rates import Rate
from wiper_cli.reports.schema import schema
from wiper_cli.verdict import Verdict


def found(name, target):
    return Recovered("patch", target, {}, {"name": name})


def scan(*accused, weak=(), recovered=()):
    """A scan in which a detector fired for each of ``accused``."""
    evidence = [
        Evidence("square-probe", True, statistic=1.0, threshold=0.5, fired=True, target=k) for k in accused
    ]
    evidence.append(Evidence("warp-inversion", True, statistic=0.1, threshold=0.5, recovered=recovered))
    return Detection(tuple(evidence), Judgement(Verdict.SUSPICIOUS, "", (), tuple(accused), tuple(weak)))


def probe(fired, target=4):
    return Evidence(
        "squares elsewhere", True, statistic=0.9, threshold=0.5, fired=fired, target=target if fired else None
    )


def names(finds):
    return [one.facts["name"] for one in finds]


def names_of(evidence):
    return [name for piece in evidence for name in names(piece.recovered)]


def test_whatever_was_ever_found_stays():
    first = Finds((2,)).scanned(scan(4, weak=(7,), recovered=[found("a", 4), found("b", 9)]))
    first = first.sampled([found("c", 4)], [found("d", 4)])
    assert (first.accused, first.suspects) == ((2, 4), [2, 4, 7])
    assert (names(first.unlearned), names(first.measured)) == (["a", "b", "c"], ["a", "d"])
    second = first.scanned(scan(4, 5, weak=(1,), recovered=[found("e", 5)]), [probe(True, 9)])
    second = second.sampled([found("f", 4)], [found("g", 5)])
    assert (second.accused, second.suspects) == ((2, 4, 5, 9), [2, 4, 5, 9, 1])
    assert names(second.unlearned) == ["a", "b", "e", "c", "f"]
    assert names(second.measured) == ["a", "b", "e", "d", "g"]


def test_what_a_later_round_finds_for_an_accused_class_is_marked_as_left():
    first = Finds((2,)).scanned(scan(4, recovered=[found("a", 4), found("b", 2)]))
    later = first.scanned(scan(recovered=[found("c", 4), found("d", 2), found("e", 9)]), [])
    assert [one.facts.get("remnant", False) for one in later.recovered] == [False, False, True, True, False]


def test_what_probes_recovered_is_not_trained_against():
    judge = replace(probe(True), recovered=[found("of a judge", 4)])
    finds = Finds().scanned(scan(), [judge])
    assert (finds.accused, finds.unlearned, finds.measured) == ((4,), [], [])


def outcome(accepted, right, *fired):
    measured = Measurement(100, Rate(right, 100), ())
    pieces = tuple(probe(True, k) for k in fired) or (probe(False),)
    look = Look(scan(), Finds())
    return Round(look, look, Purified(Edit({})), Edit({}), measured, measured, pieces, accepted)


def test_the_best_acceptable_one_stands():
    refused, noisy, better, silent = (
        outcome(False, 99),
        outcome(True, 97, 3),
        outcome(True, 98, 3),
        outcome(True, 90),
    )
    assert rounds.best([refused, noisy]) is noisy
    assert rounds.best([noisy, better, refused]) is better
    assert rounds.best([better, silent]) is silent
    assert [one.silent for one in (refused, noisy, silent)] == [False, False, True]
    assert rounds.best([outcome(False, 99, 3, 4), refused]) is refused
    assert rounds.best([silent, outcome(True, 97), refused]).after.acc.hits == 97


def test_what_a_second_round_brought_within_bounds_is_worked_on_once_more(run):
    answer, asked = run([(False, (4,)), (True, ()), (True, ())], max_rounds=4)
    assert len(asked["tasks"]) == 3
    assert [one["kept"] for one in answer.purification["rounds"]] == [False, False, True]
    assert answer.edit == bias(3)
    refused, silent = outcome(False, 99), outcome(True, 90)
    series = ([], [silent], [refused], [refused, silent], [refused, silent, silent], [silent, refused])
    assert [rounds.settled(one) for one in series] == [False, False, False, False, True, False]


def test_a_round_goes_on_from_an_outcome_that_kept_its_accuracy():
    edit = bias(1)
    kept = replace(outcome(False, 100), edit=edit)
    assert rounds.going_on([], 0.02) == Edit({})
    assert rounds.going_on([kept], 0.02) == edit
    ruined = replace(kept, after=Measurement(100, Rate(97, 100), ()))
    assert rounds.going_on([ruined], 0.02) == Edit({})
    other = Edit({"b": edit.tensors["classifier.bias"]})
    assert rounds.joined(edit, other).tensors == {**edit.tensors, **other.tensors}
    assert rounds.joined(edit, bias(2)) == bias(2)


def test_probes_and_scans_of_another_round_look_elsewhere():
    request = PurifyRequest(model=None, clean=None)
    seeds = [rounds.seed_of(request, n) + more for n in range(20) for more in (0, 1, 2, PROBE_SEED_OFFSET)]
    assert len(set(seeds)) == len(seeds)
    assert rounds.seed_of(request, 0) == request.seed
    for table in (probes([4]), {name: kind() for name, kind in DETECTORS.items()}):
        assert rounds.anew(table, 0) == table
        for one in (rounds.anew(table, n) for n in (1, 2)):
            moved = [name for name in table if hasattr(table[name], "offset")]
            assert len(moved) == 2
            assert all(one[name].offset != table[name].offset for name in moved)
            assert {**one, **{name: table[name] for name in moved}} == table
    scans, judges = DETECTORS["square-probe"](), probes([4])["squares elsewhere"]
    places = [rounds.anew({"s": judges}, n)["s"].offset for n in range(judges.step)]
    assert sorted(places) == list(range(judges.step))
    assert set(judges.sides) != set(scans.sides)


@pytest.mark.parametrize(
    ("changes", "images", "expected"),
    [
        ({}, 100, 5), ({}, 49, 1), ({"detectors": ()}, 100, 1), ({"max_rounds": 3}, 100, 3),
        ({"method": METHODS["fine-tuning"]()}, 100, 1), ({"max_accuracy_drop": 0.5}, 2, 5),
    ],
)  # fmt: skip
def test_there_is_another_round_only_where_it_could_change_something(changes, images, expected):
    assert rounds.most(PurifyRequest(model=None, clean=None, **changes), images) == expected


def bias(value):
    """An edit of the digits."""
    file = open_model(read_source(example_folder() / "model.safetensors"))
    new = file.named()["classifier.bias"].detach() + value
    return Edit({"classifier.bias": NewTensor("F32", tuple(new.shape), to_bytes(new))})


@pytest.fixture
def run(job, heard, monkeypatch):
    """``run(outcomes, **changes)`` → (answer, what was asked): purifies the digits in rounds that find, and come to,
    what ``outcomes`` say: for each whether it is accepted, and the classes of the probes that fire."""

    def start(outcomes, **changes):
        asked = {"tasks": [], "scans": [], "samples": [], "probes": [], "measured": [], "judged": []}
        verdicts = iter([accepted for accepted, _ in outcomes])

        def detect(classifier, clean, names, class_names, seed, progress, stage, settings, *_):
            number = len(asked["scans"])
            asked["scans"].append((classifier, seed, settings["square-probe"].offset if settings else 0))
            return scan(4, recovered=[found(f"scan {number}", 4)])

        def sample_of(classifier, clean, accused, seed, *_):
            number = len(asked["samples"])
            asked["samples"].append((classifier, accused, seed))
            return [found(f"shown {number}", 4)], [found(f"held back {number}", 4)]

        def method(self, task):
            asked["tasks"].append(task)
            return Purified(bias(len(asked["tasks"])))

        def measure(served, part, chosen, *, opened, **_):
            asked["measured"].append((opened, len(chosen)))
            return Measurement(100, Rate(90, 100), ())

        def look_closely(detectors, classifier, clean, seed, *_):
            asked["probes"].append((detectors, classifier, seed))
            fired = outcomes[len(asked["probes"]) - 1][1]
            return tuple(probe(True, k) for k in fired) or (probe(False),)

        for name, double in (("detect", detect), ("sample_of", sample_of), ("look_closely", look_closely)):
            monkeypatch.setattr(story, name, double)
        monkeypatch.setattr(shared, "detect", detect)

        def accept(*given):
            asked["judged"].append(given)
            return next(verdicts), "as told"

        monkeypatch.setattr(story, "accept", accept)
        monkeypatch.setattr(story, "measure", measure)
        monkeypatch.setattr(METHODS["unlearn"], "run", method)
        usual = {"method": METHODS["unlearn"](), "detectors": ("square-probe",), "max_accuracy_drop": 0.5}
        return purify(job(PurifyRequest, **usual | changes), heard), asked

    return start


def test_two_silent_rounds_are_enough(run):
    answer, asked = run([(True, ()), (True, ())])
    assert answer.accepted
    assert {name: len(calls) for name, calls in asked.items()} == {
        "tasks": 2, "scans": 3, "samples": 3, "probes": 2, "measured": 4, "judged": 2,
    }  # fmt: skip
    one, two = answer.purification["rounds"]
    assert (one["kept"], one["accepted"], one["accused"], one["unlearned"]) == (False, True, [4], 2)
    assert (two["kept"], two["accepted"], two["accused"], two["unlearned"]) == (True, True, [4], 4)


def test_one_round_may_be_all_that_is_wanted(run):
    answer, asked = run([(True, ())], max_rounds=1)
    assert answer.accepted
    assert len(asked["tasks"]) == len(answer.purification["rounds"]) == 1


def test_an_outcome_is_judged_by_a_scan_of_it(run):
    answer, asked = run([(True, (6,)), (True, ())], max_rounds=2)
    looked = [classifier.head()[1] for classifier, *_ in asked["scans"]]
    assert [round(float((one - looked[0]).mean())) for one in looked] == [0, 1, 2]
    assert len({seed for _, seed, _ in asked["scans"]}) == 3
    for number, (*_, accused, _, evidence) in enumerate(asked["judged"], 1):
        assert names_of(evidence) == [f"scan {number}"]
        assert accused == (4, 6)
    assert [count for _, count in asked["measured"]] == [4, 4, 6, 6]
    fired = [[piece["target"] for piece in one["outcome_fired"]] for one in answer.purification["rounds"]]
    assert fired == [[4], [4]]


def test_outcomes_are_not_scanned_where_no_detector_was_asked_for(run):
    answer, asked = run([(True, ())], detectors=(), targets=(4,))
    assert (len(asked["scans"]), asked["judged"][0][-1]) == (1, None)
    assert answer.purification["rounds"][0]["outcome_fired"] is None


def test_a_refusal_leads_to_another_round_on_what_is_left(run, heard):
    answer, asked = run([(False, (6,)), (True, ())], max_rounds=2)
    assert answer.accepted
    assert answer.edit == bias(2)
    first, second = asked["tasks"]
    began = [task.classifier.head()[1] for task in (first, second)]
    assert (began[1] - began[0]).allclose(began[0].new_ones(10))
    assert names(first.recovered) == ["scan 0", "shown 0"]
    assert names(second.recovered) == ["scan 0", "scan 1", "shown 0", "shown 1"]
    assert (first.suspects, second.suspects) == ([4], [4, 6])
    assert first.seed != second.seed
    looked = [classifier.head()[1] for classifier, *_ in asked["scans"]]
    assert (looked[1] - looked[0]).allclose(looked[0].new_ones(10))
    assert asked["samples"][1][0] is asked["scans"][1][0]
    for calls in (
        asked["scans"],
        [(one["squares elsewhere"].offset, seed) for one, _, seed in asked["probes"]],
    ):
        assert calls[0][1:] != calls[1][1:]
    assert [list(one["other shapes"].targets) for one, *_ in asked["probes"]] == [[4], [4, 6]]
    assert [(one["kept"], one["accepted"]) for one in answer.purification["rounds"]] == [
        (False, False),
        (True, True),
    ]
    assert answer.purification["rounds"][0]["probes_fired"][0]["target"] == 6
    assert heard.logged == ["Round 1: as told"]
    rule = {"$ref": "#/$defs/purification", "$defs": schema()["$defs"]}
    jsonschema.validate(json.loads(json.dumps(answer.purification)), rule)


@pytest.mark.parametrize("most", [1, 2, 3])
def test_what_no_round_mends_is_refused(run, most):
    answer, asked = run([(False, (4,))] * most, max_rounds=most)
    assert len(asked["tasks"]) == len(answer.purification["rounds"]) == most
    assert not answer.accepted
    assert [one.rule for one in answer.findings if one.rule == "WIPER-P01"] == ["WIPER-P01"]


@pytest.mark.parametrize("stands", [True, False])
def test_an_acceptable_state_stands_what_later_rounds_found_or_is_refused(run, stands):
    answer, asked = run([(True, (9,)), (False, ()), (False, (4,)), (stands, ())], max_rounds=3)
    assert answer.accepted == stands
    assert answer.edit == bias(1 if stands else 2)
    first, *_ = answer.purification["rounds"]
    assert (first["kept"], first["accepted"]) == (stands, stands)
    assert len(asked["tasks"]) == len(answer.purification["rounds"]) == 3
    opened, triggers = asked["measured"][-1]
    changed = opened.head()[1] - asked["tasks"][0].classifier.head()[1]
    assert changed.allclose(changed.new_ones(10))
    assert triggers == 8


@pytest.mark.slow
def test_rounds_of_real_parts_follow_a_purifier_that_is_too_weak(job, heard):
    """Two steps of training leave the backdoor of the digits: each round finds it again, and none is accepted."""
    method = METHODS["unlearn"](**METHODS["unlearn"].quick)
    request = job(
        PurifyRequest,
        method=method,
        detectors=("square-probe",),
        effort="quick",
        max_rounds=2,
        max_accuracy_drop=0.5,
    )
    answer = purify(request, heard)
    first, second = answer.purification["rounds"]
    assert not answer.accepted
    assert [one["target"] for one in second["fired"]] == [0]
    assert second["unlearned"] > first["unlearned"] > 3
    assert second["measured"] > first["measured"]
    assert second["asr"] > 0.5
