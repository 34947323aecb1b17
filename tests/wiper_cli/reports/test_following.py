"""The next step that a report names."""

import shlex

import pytest

from wiper_cli.main import cli
from wiper_cli.reports import render, story
from wiper_cli.reports.following import following
from wiper_cli.reports.plain import Style
from wiper_cli.rules import RULES


def test_every_outcome_but_a_measurement_has_a_next_step(make, sample_names):
    seen = set()
    for name in sample_names:
        report = make(name)
        said, command = following(report)
        seen.add(story.outcome(report))
        if story.outcome(report) == "measured":
            assert (said, command) == ("", "")
            continue
        assert said.endswith(".")
        if command:
            program, called, *words = shlex.split(command)
            assert program == "wiper"
            whole = cli()
            command, parent = whole.commands[called], whole.make_context("wiper", ["x"])
            context = command.make_context(called, ["-", "-"], parent=parent, resilient_parsing=True)
            known = {option for one in command.get_params(context) for option in one.opts}
            assert {word for word in words if word.startswith("--")} <= known | {"--help"}
    assert {"no_finding", "suspicious", "incomplete", "purified", "rejected", "inspected"} <= seen


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (
            "scan_finding",
            "wiper purify models/model.onnx --clean 'clean images' -o models/model-purified.onnx",
        ),
        ("purify_accepted", "wiper verify models/model.onnx clean.onnx --clean 'clean images'"),
        ("inspect", "wiper scan models/model.onnx --clean DIR"),
    ],
)
def test_the_command_can_be_typed(make, name, words):
    assert following(make(name))[1] == words
    for form in ("text", "html"):
        assert words.replace("'", "&#39;" if form == "html" else "'") in render(form, [make(name)])


@pytest.mark.parametrize("width", [40, 80])
def test_a_long_command_is_neither_cut_nor_broken(make, width):
    report = make("scan_finding")
    report["model"]["path"] = f"models/{'long-' * 20}name.onnx"
    command = following(report)[1]
    assert len(command) > 200
    assert f"  {command}\n" in render("text", [report], Style(width)) + "\n"


@pytest.mark.parametrize("form", ["text", "html", "markdown"])
def test_our_own_sentence_is_shown_whole(make, form):
    report = make("purify_accepted")
    report["sentence"] += f" The probes{', squares elsewhere' * 20} found nothing at all."  # 480 characters
    assert "found nothing at all" in " ".join(render(form, [report]).split())


def test_a_branch_is_not_purified(make):
    report = make("scan_finding")
    report["findings"][0]["rule"] = "WIPER-G01"
    assert "WIPER-G01" in RULES
    assert following(report) == (
        "Do not deploy it. Training removes no branch: purifying does not help.", "wiper rules WIPER-G01",
    )  # fmt: skip


def test_a_hostile_name_stays_one_word(make):
    report = make("scan_clean")
    report["model"]["path"] = "$(reboot)\x1b[2J `x`.onnx"
    words = shlex.split(following(report)[1])
    assert words[:2] == ["wiper", "verify"]
    assert words[3] == "--clean"
    assert "\x1b" not in following(report)[1]


@pytest.mark.parametrize("code", [0, 1])
def test_what_somebody_answers_for_is_not_forbidden(make, code):
    report = make("scan_finding")
    report["exit_code"] = code
    for finding in report["findings"]:
        finding["suppressed"] = {"reason": "r", "owner": "o", "expires": "2030-01-01"}
    said, _ = following(report)
    assert said.startswith("Somebody answers for every finding" if code == 0 else "Do not deploy it")


def test_of_a_purification_that_ended_early_nobody_says_to_change_the_method(make):
    report = make("purify_rejected")
    assert "another --method" in following(report)[0]
    report["not_done"].append({"what": "the rest of the purification", "why": "It was interrupted."})
    assert following(report) == (
        "It ended early, and nothing was written: keep the original out of service, and let it end.",
        "",
    )
