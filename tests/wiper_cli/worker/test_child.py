"""The child's side: a sentence and an exit code for whatever happens, little talk, and no life without a parent."""

from __future__ import annotations

import io
import subprocess
from pathlib import Path

import pytest

from formats import EditError, Hostile, Unreadable, Unsupported
from wiper_cli.audit import pipeline
from wiper_cli.audit.answers import InspectAnswer
from wiper_cli.audit.requests import InspectRequest, ScanRequest
from wiper_cli.commands.shared.example_files import example_folder
from wiper_cli.verdict import ExitCode, Problem
from wiper_cli.worker import child, launcher
from wiper_cli.worker.confinement import Terms
from wiper_cli.worker.protocol import Log, Progress, Refusal, receive, send

DIGITS = example_folder()
NO_MEMORY = "There is not enough memory for this model and these images."


@pytest.fixture
def serve(monkeypatch):
    """``serve(request)`` → all that a child says, computed here; its parent lives on."""
    monkeypatch.setattr(child, "_die_with_parent", lambda stdin: None)

    def run(request):
        stdin, channel = io.BytesIO(), io.BytesIO()
        send(stdin, request)
        stdin.seek(0)
        child.serve(stdin, channel)
        return said(channel)

    return run


def said(channel):
    channel.seek(0)
    return list(iter(lambda: receive(channel, Progress, Log, Refusal, InspectAnswer), None))


@pytest.mark.parametrize(
    ("error", "code", "sentence"),
    [
        (Problem("Too few.", ExitCode.NO_VERDICT), ExitCode.NO_VERDICT, "Too few."),
        (Problem("Wrong."), ExitCode.USAGE, "Wrong."),
        (Unreadable("Cut."), ExitCode.USAGE, "Cut."),
        (Unsupported("Int4."), ExitCode.NO_VERDICT, "Int4."),
        (EditError("No place."), ExitCode.NO_VERDICT, "No place."),
        (MemoryError(), ExitCode.NO_VERDICT, NO_MEMORY),
        (RuntimeError("CUDA out of memory. Tried"), ExitCode.NO_VERDICT, NO_MEMORY),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you"), ExitCode.NO_VERDICT, NO_MEMORY),
        (
            ZeroDivisionError("by\n  zero"),
            ExitCode.USAGE,
            "Internal failure (ZeroDivisionError in {place}): by zero",
        ),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_whatever_is_raised_is_a_sentence_and_a_code(error, code, sentence, serve, monkeypatch, capsys):
    def failing(request, report, interim):
        raise error

    monkeypatch.setattr(pipeline, "run", failing)
    found = serve(InspectRequest(model=Path("m")))
    place = f"test_child.py:{failing.__code__.co_firstlineno + 1}"
    assert found == [Refusal(sentence.format(place=place), code)]
    internal = not isinstance(error, (Problem, Unreadable, Unsupported, EditError))
    assert ("Traceback" in capsys.readouterr().err) is internal


def test_a_hostile_file_keeps_its_rule():
    refusal = child.refusal(Hostile("Two of them.", "WIPER-TS-004", "data.pkl"))
    assert refusal == Refusal("Two of them.", ExitCode.FINDING, "WIPER-TS-004", "data.pkl")


def test_a_request_is_answered(serve):
    progress, *_, answer = serve(InspectRequest(model=DIGITS / "model.onnx"))
    assert progress == Progress("open the model", 0, 0)
    assert isinstance(answer, InspectAnswer)
    assert len(answer.model["classes"]) == 10


def test_what_is_no_request_is_refused(serve):
    (found,) = serve(Log("hello"))
    assert found.exit_code is ExitCode.USAGE
    assert "asked something that it does not know: it is none of InspectRequest" in found.sentence


def test_progress_is_sent_now_and_then(monkeypatch):
    channel, now = io.BytesIO(), [10.0]
    monkeypatch.setattr(child.time, "monotonic", lambda: now[0])
    report = child.Reporter(channel)
    for done in range(101):
        report("search", done, 100)
        now[0] += 0.01
    report.log("remark")
    report("verify", 0, 3)
    sent = said(channel)
    assert sent[0] == Progress("search", 0, 100)
    assert sent[-3:] == [Progress("search", 100, 100), Log("remark"), Progress("verify", 0, 3)]
    assert 9 <= len(sent) - 3 <= 11


def test_a_child_dies_with_its_parent():
    """The parent's end of the pipe closes, however the parent dies; what was being computed is left."""
    process = subprocess.Popen(
        launcher.command("-m", "wiper_cli.worker.child", str(Terms("off"))),
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=launcher.environment(),
    )  # fmt: skip
    send(process.stdin, ScanRequest(model=DIGITS / "model.onnx", clean=DIGITS / "clean"))
    out, _ = process.communicate(timeout=60)
    assert process.returncode == ExitCode.NO_VERDICT
    assert b"ScanAnswer" not in out
