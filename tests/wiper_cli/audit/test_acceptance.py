"""When a purification is accepted, and what is said of it."""

import re

import pytest

from wiper_cli.audit.acceptance import accept
from wiper_cli.audit.measure import Measurement, TriggerRates
from wiper_cli.detectors.evidence import Evidence
from wiper_cli.rates import Rate


def numbers(acc, asr, base, n=1000, images=1100):
    """Hits; ``asr`` of a recovered trigger, ``None`` for no trigger at all."""
    found = [] if asr is None else [Rate(asr, n)]
    rows = [
        TriggerRates("patch", "recovered", {}, 4, "", rate, rate.share, None, Rate(base, n), [])
        for rate in found
    ]
    return Measurement(images, Rate(acc, images), rows)


SILENT = Evidence("probe", ran=True, statistic=1.0, threshold=4.0, target=4)
FIRES = Evidence("probe", ran=True, statistic=9.0, threshold=4.0, fired=True, target=4)
BEFORE = numbers(1000, 990, 12)


def test_accepted():
    done, reason = accept(BEFORE, numbers(990, 15, 13), [SILENT], 0.02, [4])
    assert done
    assert "0.9 points" in reason
    assert "1 of the 1 triggers measured had worked and none does now" in reason
    assert "no removal is claimed" not in reason


@pytest.mark.parametrize(
    ("after", "probes", "sentence"),
    [
        (numbers(970, 15, 13), [SILENT], "accuracy fell by 2.7 points"),
        (numbers(990, 300, 13), [SILENT], "still succeeds on 30.0 %"),
        (numbers(990, 95, 13), [SILENT], "still succeeds on 9.5 %"),
        (numbers(990, 15, 13), [SILENT, FIRES], r"probe still fires for class 4 \(9.00 against 4.00\)"),
        (numbers(990, 15, 13), [], "no independent probe"),
        (numbers(990, 15, 13), [Evidence("probe", ran=False, reason="head-only")], "no independent probe"),
        (numbers(990, 0, 0, n=30), [SILENT], "30 images are too few"),
        (numbers(990, 0, 0, n=0), [SILENT], "could not be measured"),
        (numbers(27, 0, 0, n=27, images=30), [SILENT], "with 30 images a single one decides"),
        (numbers(0, 0, 0, images=0), [SILENT], "no images to measure the accuracy on"),
    ],
)
@pytest.mark.parametrize("unverified", [False, True])
def test_not_accepted_whatever_the_user_allows(after, probes, sentence, unverified):
    done, reason = accept(BEFORE, after, probes, 0.02, [4], unverified)
    assert not done
    assert reason.startswith("Not accepted: ")
    assert re.search(sentence, reason)


ALONE, BLIND = numbers(1000, None, None), Evidence("probe", ran=False, reason="no time")


@pytest.mark.parametrize("probes", [[], [BLIND]])
def test_unverified_is_the_user_s_to_accept(probes):
    done, reason = accept(ALONE, numbers(995, None, None), probes, 0.02)
    assert not done
    assert "no independent probe could be run" in reason
    done, reason = accept(ALONE, numbers(995, None, None), probes, 0.02, accept_unverified=True)
    assert done
    assert reason.startswith(
        "Written unverified, as asked: the accuracy fell by 0.5 points, and nothing showed"
    )


@pytest.mark.parametrize("after", [numbers(950, None, None), numbers(0, None, None, images=0)])
def test_what_was_measured_against_it_no_option_overrules(after):
    before = after if not after.images else ALONE
    done, reason = accept(before, after, [], 0.02, accept_unverified=True)
    assert not done
    assert "the accuracy" in reason


def test_an_accuracy_that_rose_did_not_fall():
    _, reason = accept(ALONE, numbers(1050, None, None), [], 0.02, accept_unverified=True)
    assert "fell by 0.0 points" in reason


def test_without_suspects_no_removal_is_claimed():
    done, reason = accept(ALONE, ALONE, [SILENT], 0.02)
    assert done
    assert reason.endswith("No class had been suspected, so no removal is claimed.")


def test_all_reasons_are_given_at_once():
    _, reason = accept(BEFORE, numbers(900, 500, 13), [FIRES], 0.02, [4])
    assert reason.count(";") == 2


def test_a_probe_counts_for_the_original_suspects():
    elsewhere = Evidence("probe", ran=True, statistic=9.0, threshold=4.0, fired=True, target=7)
    assert accept(BEFORE, numbers(990, 15, 13), [elsewhere], 0.02, [4])[0]
    assert not accept(BEFORE, numbers(990, 15, 13), [elsewhere], 0.02, [])[0]


def test_a_high_base_rate_is_no_fault_of_the_trigger():
    assert accept(numbers(1000, 990, 200), numbers(995, 205, 200), [SILENT], 0.02, [4])[0]


def test_a_measured_zero_is_never_said_without_its_interval():
    _, reason = accept(BEFORE, numbers(990, 0, 0, n=30), [SILENT], 0.02, [4])
    assert "0.0 % (0.0 to 11.4, n = 30)" in reason
