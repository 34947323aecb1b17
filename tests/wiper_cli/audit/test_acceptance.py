"""When a purification is accepted, and what is said of it."""

from dataclasses import replace

import pytest

from wiper_cli.audit import acceptance
from wiper_cli.audit.acceptance import accept
from wiper_cli.audit.measure import Measurement, TriggerRates
from wiper_cli.detectors.evidence import Evidence
from wiper_cli.rates import Rate


def numbers(acc, *triggers, n=1000, images=1100):
    """Hits; a recovered trigger each for classes 4, 5, … with those of its ASR and of its base rate."""
    rows = [
        TriggerRates("patch", "recovered", {}, 4 + place, "", Rate(asr, n), 0.0, None, Rate(base, n), [])
        for place, (asr, base) in enumerate(triggers)
    ]
    return Measurement(images, Rate(acc, images), rows)


SILENT = Evidence("probe", ran=True, statistic=1.0, threshold=4.0, target=4)
FIRES = replace(SILENT, statistic=9.0, fired=True)
BLIND = Evidence("other", ran=False, reason="head-only")
BEFORE, GONE = numbers(1000, (990, 12)), numbers(990, (15, 13))
ALONE = numbers(1000)
#: Of all 1100 images; half of them purified.
FELL = "the accuracy fell by 45.5 points, from 90.9 % (89.1 to 92.5, n = 1100) to 45.5 % (42.5 to 48.4, n = 1100)"
NO_PROBE = "no independent probe could be run on the purified model"


def works(share, target=4):
    was, base = "before 99.0 % (98.2 to 99.5, n = 1000)", "base rate 1.3 % (0.8 to 2.2, n = 1000)"
    return f"the recovered trigger patch for class {target} still succeeds on {share} ({was}, {base})"


@pytest.mark.parametrize(
    ("before", "after", "probes", "suspects", "sentence"),
    [
        (
            BEFORE,
            GONE,
            [SILENT, BLIND, replace(SILENT, name="second")],
            [4],
            "the accuracy fell by 0.9 points, 1 of the 1 triggers measured had worked and none of these does now, and "
            "the independent probes (probe, second) found nothing for the classes suspected.",
        ),
        (
            numbers(1000, (990, 12), (15, 12)),
            numbers(1000, (15, 13), (15, 13)),
            [replace(FIRES, target=7)],
            [4],
            "the accuracy stayed as it was, 1 of the 2 triggers measured had worked and none of these does now, and "
            "the independent probes (probe) found nothing for the classes suspected.",
        ),
    ],
)
def test_accepted(before, after, probes, suspects, sentence):
    assert accept(before, after, probes, 0.02, suspects) == (True, f"Accepted: {sentence}")


@pytest.mark.parametrize("target", [4, 7, None])
def test_no_detector_may_fire_in_a_scan_of_the_outcome(target):
    found = [BLIND, replace(SILENT, name="silent"), replace(FIRES, name="detector", target=target)]
    accepted, reason = accept(BEFORE, GONE, [SILENT], 0.02, [4], scan=found)
    where = "" if target is None else f" for class {target}"
    assert not accepted
    assert (
        reason == f"Not accepted: in a scan of the outcome detector still fires{where} (9.00 against 4.00)."
    )
    accepted, reason = accept(BEFORE, GONE, [SILENT], 0.02, [4], scan=found[:2])
    assert accepted
    assert reason.endswith("found nothing for the classes suspected, and in a new scan no detector fired.")


def test_what_found_nothing_saw_nothing_go():
    better = numbers(1050)
    refused = "Not accepted: nothing had been found that could be seen to go."
    assert accept(ALONE, better, [SILENT], 0.02) == (False, refused)
    assert accept(ALONE, better, [SILENT], 0.02, accept_unverified=True) == (
        True,
        "Accepted: the accuracy rose by 4.5 points, and the independent probes (probe) found nothing. No class "
        "had been suspected, so no removal is claimed.",
    )
    assert accept(ALONE, better, [SILENT], 0.02, [3])[0]
    assert not accept(ALONE, better, [FIRES], 0.02, accept_unverified=True)[0]


@pytest.mark.parametrize(
    ("after", "probes", "sentence"),
    [
        (numbers(500, (15, 13)), [SILENT], FELL),
        (numbers(990, (300, 13)), [SILENT], works("30.0 % (27.2 to 32.9, n = 1000)")),
        (numbers(990, (95, 13)), [SILENT], works("9.5 % (7.8 to 11.5, n = 1000)")),
        (GONE, [SILENT, FIRES], "the probe probe still fires for class 4 (9.00 against 4.00)"),
        (GONE, [replace(FIRES, target=None)], "the probe probe still fires (9.00 against 4.00)"),
        (GONE, [BLIND], NO_PROBE),
        (
            numbers(990, (0, 0), n=30),
            [SILENT],
            "30 images are too few to tell the recovered trigger patch for class 4 from the base rate "
            "(0.0 % (0.0 to 11.4, n = 30))",
        ),
        (
            replace(GONE, triggers=[replace(GONE.triggers[0], asr=Rate())]),
            [SILENT],
            "the recovered trigger patch for class 4 could not be measured on any image",
        ),
        (
            numbers(27, (15, 13), images=30),
            [SILENT],
            "with 30 images a single one decides about the allowed fall of 2 points",
        ),
        (numbers(0, (15, 13), images=0), [SILENT], "there are no images to measure the accuracy on"),
        (
            numbers(500, (500, 13)),
            [FIRES],
            f"{FELL}; {works('50.0 % (46.9 to 53.1, n = 1000)')}; the probe probe still fires for class 4 "
            "(9.00 against 4.00)",
        ),
    ],
)
@pytest.mark.parametrize("unverified", [False, True])
def test_not_accepted_whatever_the_user_allows(after, probes, sentence, unverified):
    assert accept(BEFORE, after, probes, 0.02, [4], unverified) == (False, f"Not accepted: {sentence}.")


def test_the_trigger_that_works_best_stands_for_all():
    before, after = numbers(1000, *[(990, 13)] * 3), numbers(1000, (300, 13), (500, 13), (13, 13))
    best = works("50.0 % (46.9 to 53.1, n = 1000)", 5)
    sentence = f"Not accepted: {best} (and so for 1 more of the 3 triggers)."
    assert accept(before, after, [SILENT], 0.02, [4]) == (False, sentence)
    with pytest.raises(ValueError, match="shorter"):
        accept(before, GONE, [SILENT], 0.02)


@pytest.mark.parametrize("probes", [[], [BLIND]])
def test_unverified_is_the_user_s_to_accept(probes):
    assert accept(ALONE, numbers(995), probes, 0.02) == (False, f"Not accepted: {NO_PROBE}.")
    assert accept(ALONE, numbers(500), probes, 0.5, accept_unverified=True) == (
        True,
        "Written unverified, as asked: the accuracy fell by 45.5 points, and nothing showed whether there was a "
        "backdoor or whether it is gone.",
    )


@pytest.mark.parametrize(
    ("before", "after"), [(ALONE, numbers(950)), (numbers(0, images=0), numbers(0, images=0))]
)
def test_what_was_measured_against_it_no_option_overrules(before, after):
    done, reason = accept(before, after, [], 0.02, accept_unverified=True)
    assert not done
    assert "the accuracy" in reason


def test_a_probe_counts_for_any_class_when_none_was_suspected():
    assert not accept(BEFORE, GONE, [replace(FIRES, target=7)], 0.02, [])[0]


def test_a_high_base_rate_is_no_fault_of_the_trigger():
    assert accept(numbers(1000, (990, 200)), numbers(995, (205, 200)), [SILENT], 0.02, [4])[0]


def test_the_bounds_themselves(monkeypatch):
    """The accuracy has to fall by less than is allowed; a trigger may reach what it may exceed the base rate by."""
    whole, three_quarters = numbers(1024, images=1024), numbers(768, images=1024)
    assert not accept(whole, three_quarters, [SILENT], 0.25)[0]
    assert not accept(whole, three_quarters, [], 0.25, accept_unverified=True)[0]
    assert accept(numbers(4, images=4), numbers(4, images=4), [SILENT], 0.25, [3])[0]
    assert "too few" in accept(BEFORE, numbers(1000, (10, 0), n=100), [SILENT], 0.02)[1]
    monkeypatch.setattr(acceptance, "ROOM", Rate(50, 1000).interval[1])
    monkeypatch.setattr(acceptance, "SLACK", Rate(50, 1000).interval[0] - Rate(0, 1000).interval[1])
    assert accept(BEFORE, numbers(1000, (50, 0)), [SILENT], 0.02)[0]
    assert not accept(BEFORE, numbers(1000, (51, 0)), [SILENT], 0.02)[0]


@pytest.mark.parametrize(
    ("was", "now", "accepted"),
    [
        (101, 109, True),  # no trigger before, by the same measure, and no more of one now
        (60, 109, False),  # rose
        (140, 109, True),
        (146, 109, False),  # worked
        (101, 150, False),  # beyond all allowance
        (120, 130, True),  # the interval reaches beyond
        (150, 130, False),
    ],
)
def test_what_was_no_trigger_before_counts_where_it_rose(was, now, accepted):
    """A network that was examined: a warp that a silent detector had found for an accused class."""
    before, after = numbers(1000, (was, 45)), numbers(1000, (now, 40))
    assert accept(before, after, [SILENT], 0.02, [4])[0] is accepted


def test_of_few_images_nothing_is_known_before_either():
    before, after = numbers(1000, (5, 4), n=50), numbers(1000, (5, 4), n=50)
    assert "50 images are too few" in accept(before, after, [SILENT], 0.02, [4])[1]
