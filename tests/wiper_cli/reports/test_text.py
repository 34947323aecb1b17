import re

import pytest

from wiper_cli.reports import render
from wiper_cli.reports.following import following
from wiper_cli.reports.plain import Style

ESCAPE = re.compile(r"\x1b\[[0-9;]*m")


def test_the_story_in_its_order(make):
    text = render("text", [make("purify_accepted")])
    order = (
        "PURIFIED", "Clean accuracy", "Findings in the original (1)", "Detectors",
        "Purification", "Not done", "Reproduce", "Next",
    )  # fmt: skip
    assert [text.index(part) for part in order] == sorted(map(text.index, order))
    assert "98.7% → 1.2%" in text
    assert "base rate 1.3%" in text
    assert "wiper purify models/model.onnx --clean 'clean images' -o clean.onnx" in text


def test_a_finding_has_measurement_threshold_and_origin(make):
    text = render("text", [make("scan_finding")])
    assert "▲ high  WIPER-B03" in text
    assert re.search(r"statistic +0\.987", text)
    assert re.search(r"threshold +0\.5", text)
    assert "threshold 4 (above every value on three clean networks; not calibrated)" in text


def test_nothing_measured_is_said(make):
    text = render("text", [make("refused")])
    assert "■ MALICIOUS" in text
    assert "Everything after the static gate" in text
    assert "%" not in text


@pytest.mark.parametrize("width", [40, 60, 100, 120])
def test_no_line_is_wider_than_asked(sample, width):
    command = following(sample)[1]  # stays whole, to be pasted
    lines = render("text", [sample], Style(width)).splitlines()
    assert max(len(line) for line in lines if line.strip() != command or not command) <= width


def test_colour_only_when_asked(sample):
    without = render("text", [sample], Style(100, False))
    coloured = render("text", [sample], Style(100, True))
    assert "\x1b" not in without
    assert "\x1b[" in coloured
    assert [line.rstrip() for line in ESCAPE.sub("", coloured).splitlines()] == without.splitlines()


@pytest.mark.parametrize("colour", [False, True])
def test_hostile_names_steer_nothing(make, sample_names, colour):
    for name in sample_names:
        text = ESCAPE.sub("", render("text", [make(name, hostile=True)], Style(80, colour)))
        assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]", text)
        assert len(text) < 60_000


def test_several_models_end_in_an_overview(make):
    text = render("text", [make("scan_clean"), make("refused")])
    assert text.endswith("\n○ No finding  models/model.onnx\n■ Malicious   models/evil.pt\n")
