"""Findings that somebody answers for: told everywhere, failing nothing, of one model, for a time, from a named file."""

import datetime
import json
import subprocess
import sys
import tomllib
from dataclasses import replace
from pathlib import Path

import jsonschema
import pytest

from formats import Hostile, Source
from wiper_cli.audit.requests import ScanRequest
from wiper_cli.commands.shared.example_files import example_folder
from wiper_cli.commands.shared.ignore import Ignores
from wiper_cli.reports.schema import schema
from wiper_cli.verdict import ExitCode, Finding, Problem, Severity, Verdict
from wiper_cli.worker import gate

DIGITS = example_folder()
MODEL = DIGITS / "model.onnx"
SHA256 = Source("m", MODEL.read_bytes()).sha256
SQUARE = Finding("WIPER-B03", Severity.CRITICAL, "A square.", place={"class": 2})
GIVEN = {
    "rule": '"WIPER-B03"', "model": f'"{SHA256}"', "reason": '"A known watermark."', "owner": '"Ada"',
    "expires": "2999-01-31",
}  # fmt: skip


def listed(*entries, **changes):
    """The text of a file with one entry, ``changes`` made, and others."""
    tables = [{**GIVEN, **changes}, *entries]
    return "\n".join(
        "[[ignore]]\n" + "".join(f"{key} = {value}\n" for key, value in table.items() if value is not None)
        for table in tables
    )


@pytest.fixture
def scan(wiper, child, scanned, few_digits, tmp_path):
    """``scan(text of the file, *arguments)`` → (exit code, report, stderr); the detectors found :data:`SQUARE`."""
    child.answers[ScanRequest] = scanned(
        verdict=Verdict.SUSPICIOUS, sentence="Suspicious: a.", findings=(SQUARE,)
    )

    def run(text=None, *arguments):
        file = tmp_path / "accepted.toml"
        if text is not None:
            file.write_text(text)
            arguments = ("--ignore", file, *arguments)
        code, out, err = wiper("scan", MODEL, "--clean", few_digits, "-f", "json", *arguments)
        document = json.loads(out) if out else None
        if document:
            jsonschema.validate(document, schema())
        return code, document, err

    return run


def test_a_suppressed_finding_fails_nothing_and_stands_in_every_report(scan, tmp_path):
    formats = ("html", "text", "markdown", "sarif", "junit")
    files = [tmp_path / f"report.{name}" for name in formats]
    code, report, err = scan(listed(), *(f"-f{n}={f}" for n, f in zip(formats, files, strict=True)))
    assert (code, report["verdict"], report["exit_code"]) == (0, "suspicious", 0)
    suppressed = {"reason": "A known watermark.", "owner": "Ada", "expires": "2999-01-31"}
    assert report["findings"][0]["suppressed"] == suppressed
    assert report["suppression"] == {
        "file": str(tmp_path / "accepted.toml"), "suppressed": 1, "expired": [], "unused": [],
    }  # fmt: skip
    assert "1 suppressed by" in err
    for file in files:
        text = " ".join(file.read_text().replace("\n#", " ").split())
        assert "A known watermark." in text, file.name
        assert "1 suppressed by" in text, file.name
    result = json.loads(files[3].read_text())["runs"][0]["results"][0]
    assert result["suppressions"][0]["justification"] == "A known watermark."
    assert result["suppressions"][0]["kind"] == "external"
    assert "<failure" not in files[4].read_text()
    assert 'message="suppressed until 2999-01-31 by Ada: A known watermark."' in files[4].read_text()


@pytest.mark.parametrize(
    ("changes", "expired", "unused"),
    [
        ({"expires": "2026-01-01"}, 1, 0),
        ({"model": f'"{"0" * 64}"'}, 0, 1),
        ({"rule": '"WIPER-B01"'}, 0, 1),
        ({"class": "3"}, 0, 1),
    ],
)
def test_what_does_not_fit_or_has_expired_suppresses_nothing_and_is_told(scan, changes, expired, unused):
    code, report, err = scan(listed(**changes))
    assert code == 1
    assert "suppressed" not in report["findings"][0]
    told = report["suppression"]
    assert (told["suppressed"], len(told["expired"]), len(told["unused"])) == (0, expired, unused)
    assert (
        f"0 suppressed by {told['file']}, {expired} expired; {'expired' if expired else 'unused'}: WIPER-B0"
        in err
    )


def test_an_entry_holds_on_its_last_day_and_no_longer(tmp_path):
    file = tmp_path / "a.toml"
    file.write_text(listed(expires="2026-11-30"))
    for day, holds in ((30, True), (31, False)):
        today = datetime.date(2026, 11, 30) + datetime.timedelta(days=day - 30)
        document = {"findings": [SQUARE.as_dict()]}
        replace(Ignores.read(file), today=today).apply(document, SHA256)
        assert ("suppressed" in document["findings"][0]) == holds


def test_an_entry_may_be_for_one_class(scan):
    assert scan(listed(**{"class": "2"}))[0] == 0


def test_the_rest_still_fails(scan, child, scanned):
    other = replace(SQUARE, rule="WIPER-B01")
    child.answers[ScanRequest] = scanned(verdict=Verdict.SUSPICIOUS, findings=(SQUARE, other))
    assert scan(listed())[0] == 1


def test_no_verdict_stays_none(scan, child, scanned):
    child.answers[ScanRequest] = scanned(verdict=Verdict.INCOMPLETE, findings=(SQUARE,))
    assert scan(listed())[0] == 3
    child.answers[ScanRequest] = Problem("It ended.", ExitCode.NO_VERDICT, [SQUARE], Verdict.SUSPICIOUS)
    assert scan(listed())[0] == 3
    assert scan()[0] == 1


def test_a_file_that_was_refused_unopened_is_never_accepted(scan, child):
    child.answers[gate.GateJob] = Hostile("Refused.", "WIPER-ST-001", "header")
    code, report, _ = scan(listed(rule='"WIPER-ST-001"'))
    assert (code, report["verdict"]) == (1, "malicious")
    assert "suppressed" not in report["findings"][0]


def test_a_model_cannot_claim_the_digest_of_another(scan, child, scanned):
    child.answers[ScanRequest] = scanned(
        verdict=Verdict.SUSPICIOUS,
        findings=(SQUARE,),
        model={"opened": "full", "digest": "0" * 64, "sha256": "0" * 64},
    )
    assert scan(listed(model=f'"{"0" * 64}"'))[0] == 1
    assert scan(listed())[0] == 0


def test_weights_outside_the_file_belong_to_the_digest():
    alone, with_data = Source("m", b"graph"), Source("m", b"graph", {"w": b"1"})
    assert alone.digest == alone.sha256
    assert len({alone.digest, with_data.digest, replace(with_data, files={"w": b"2"}).digest}) == 3
    assert with_data.digest == replace(with_data, sidecars={"config.json": b"{}"}).digest


def test_no_file_is_taken_that_was_not_named(scan, tmp_path, monkeypatch):
    (Path.cwd() / "wiper-ignore.toml").write_text(listed())
    assert scan()[0] == 1
    (Path.cwd() / "wiper.toml").write_text('ignore = "wiper-ignore.toml"\n')
    code, _, err = scan()
    assert code == 2
    assert "was merely found in this folder, and its ignore could" in err


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (listed(reason='" "'), "entry 1: reason must be there, text in quotes"),
        (listed(owner=None), "entry 1: owner must be there"),
        (listed(expires='"2027-01-31"'), "expires must be there, a date such as"),
        (listed(expires="2027-01-31T00:00:00"), "expires must be there, a date such as"),
        (listed(expires=None), "expires must be there"),
        (listed(rule='"WIPER-B33"'), "there is no rule 'WIPER-B33'; the nearest is"),
        (listed(model='"abc"'), "model must be the 64 hexadecimal digits"),
        (listed(**{"class": "true"}), "class must be a whole number"),
        (listed(resaon='"x"'), "unknown key 'resaon'; the nearest is 'reason'"),
        (listed({**GIVEN, "reason": '""'}), "entry 2: reason"),
        ("ignore = 1", "holds no list of exceptions: entries [[ignore]] and nothing else"),
        ("ignore = [1]", "entries [[ignore]] and nothing else"),
        ("fail-on = 'high'", "holds no list of exceptions: entries [[ignore]] and nothing else"),
        ("[[ignore", "is not valid TOML"),
        ("x = 1\n" * 200_000, "1200000 bytes; the limit is 1048576"),
    ],
)
def test_a_file_that_is_not_in_order_is_refused_before_the_work(scan, child, text, words):
    code, _, err = scan(text)
    assert code == 2
    assert words in err
    assert child.requests == []


def test_a_file_that_is_not_there_is_refused(scan, tmp_path):
    code, _, err = scan(None, "--ignore", tmp_path / "none.toml")
    assert code == 2
    assert "none.toml cannot be read: No such file or directory." in err


def test_a_place_that_does_not_exist_is_refused_before_the_work(scan, child, tmp_path):
    code, _, err = scan(None, "--write-ignore", tmp_path / "none" / "a.toml")
    assert code == 2
    assert "does not exist" in err
    assert child.requests == []


@pytest.mark.parametrize(
    "text",
    ["#!/bin/sh\nrm -r /tmp/x\n", "[tool.wiper]\nseed = 1\n", "[[ignore]]\nrule = 'WIPER-B03'\n", "\0\xff"],
)
def test_only_a_file_of_exceptions_is_added_to(scan, child, text, tmp_path):
    """Refused before the work, and never changed."""
    file = tmp_path / "precious"
    file.write_text(text)
    code, _, err = scan(None, "--write-ignore", file)
    assert (code, file.read_text(), child.requests) == (2, text, []), err
    assert str(file) in err


def test_a_file_that_would_grow_too_large_stays(scan, tmp_path):
    file = tmp_path / "accepted.toml"
    text = listed() + "#" * ((1 << 20) - len(listed()) - 9)
    file.write_text(text)
    code, _, err = scan(None, "--write-ignore", file)
    assert (code, file.read_text()) == (2, text)
    assert "would be larger than 1 MiB" in err


def test_entries_are_written_for_what_fails_and_want_a_reason(scan, child, scanned, tmp_path):
    hostile = replace(SQUARE, message='\n[[ignore]]\nrule = "WIPER-B01"\n\x1b[2J')
    low = replace(SQUARE, rule="WIPER-B01", severity=Severity.LOW)
    child.answers[ScanRequest] = scanned(verdict=Verdict.SUSPICIOUS, findings=(hostile, low, hostile))
    file = tmp_path / "accepted.toml"
    code, _, err = scan(None, "--write-ignore", file)
    assert code == 1
    assert f"Entries added to {file}: 1; fill in reason and owner." in err
    text = file.read_text()
    assert "\x1b" not in text
    (entry,) = tomllib.loads(text)["ignore"]
    assert (entry["rule"], entry["model"], entry["class"], entry["reason"]) == ("WIPER-B03", SHA256, 2, "")
    assert "entry 1: reason must be there" in scan(text)[2]
    filled = text.replace('reason = ""', 'reason = "seen"').replace('owner = ""', 'owner = "Ada"')
    code, _, err = scan(filled, "--write-ignore", file)
    assert (code, file.read_text()) == (0, filled)
    child.answers[ScanRequest] = scanned(
        verdict=Verdict.SUSPICIOUS, findings=(replace(SQUARE, place={"class": 5}),)
    )
    scan(filled, "--write-ignore", file)
    assert file.read_text().startswith(filled)
    assert [one["class"] for one in tomllib.loads(file.read_text())["ignore"]] == [2, 5]


def test_an_entry_used_for_one_model_is_used(wiper, child, scanned, few_digits, tmp_path):
    child.answers[ScanRequest] = scanned(verdict=Verdict.SUSPICIOUS, findings=(SQUARE,))
    file = tmp_path / "a.toml"
    file.write_text(listed({**GIVEN, "model": f'"{"0" * 64}"'}))
    code, out, _ = wiper(
        "scan", MODEL, DIGITS / "model.safetensors", "--clean", few_digits, "--ignore", file, "-f", "json"
    )
    assert code == 1
    reports = json.loads(out)["reports"]
    assert [one["suppression"]["suppressed"] for one in reports] == [1, 0]
    assert all([entry["model"] for entry in one["suppression"]["unused"]] == ["0" * 64] for one in reports)


ADDING = """
import sys
from pathlib import Path
from wiper_cli.commands.shared.ignore import append
for number in range(20):
    finding = {"rule": "WIPER-B03", "severity": "high", "message": "m", "place": {"class": number}}
    document = {"findings": [finding], "model": {"path": "m"}}
    append(Path(sys.argv[1]), [(sys.argv[2] * 64, document)], "high")
"""


def test_two_runs_that_add_at_once_lose_no_entry(tmp_path):
    path = tmp_path / "ignore.toml"
    runs = [
        subprocess.Popen([sys.executable, "-c", ADDING, str(path), digit], stderr=subprocess.PIPE)
        for digit in "ab"
    ]
    for run in runs:
        _, said = run.communicate(timeout=120)
        assert run.returncode == 0, said
    added = {(one["model"][0], one["class"]) for one in tomllib.loads(path.read_text())["ignore"]}
    assert added == {(digit, number) for digit in "ab" for number in range(20)}
    assert [one.name for one in tmp_path.iterdir()] == ["ignore.toml"]
