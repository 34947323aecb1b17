"""The command in this process: what a user types, what comes out."""

import io
import signal
import sys

import pytest

from wiper_cli.audit import pipeline
from wiper_cli.audit.answers import ScanAnswer
from wiper_cli.main import main
from wiper_cli.verdict import Verdict
from wiper_cli.worker import gate
from wiper_cli.worker.protocol import receive, send


@pytest.fixture
def wiper(monkeypatch, capsys, tmp_path):
    """``wiper(*arguments)`` → (exit code, stdout, stderr), from an empty working directory."""
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["wiper", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            main()
        out, err = capsys.readouterr()
        assert "Traceback" not in out + err
        assert "Internal failure" not in err
        return stop.value.code, out, err

    return run


class Child:
    """Stands for the child processes: the same jobs, answered here. ``requests``: those that open a model.
    ``answers``: type of a job → what to say instead, or to raise."""

    def __init__(self):
        self.requests, self.answers = [], {}

    def __call__(
        self, request, progress, log, timeout=None, mode="auto", isolated=None, bounds=None, interim=None
    ):
        class Reporter:
            def __call__(self, stage, done, total):
                progress(stage, done, total)

            def log(self, sentence):
                log(sentence)

        request = there_and_back(request)
        answer = self.answers.get(type(request))
        if isinstance(request, gate.JOBS):
            answer = answer or gate.run(request)
        else:
            self.requests.append(request)
            answer = answer or pipeline.run(
                request, Reporter(), lambda answer: interim(there_and_back(answer))
            )
        if isinstance(answer, Exception):
            raise answer
        return there_and_back(answer)


def there_and_back(message):
    pipe = io.BytesIO()
    send(pipe, message)
    pipe.seek(0)
    return receive(pipe, type(message))


@pytest.fixture
def child(monkeypatch):
    """The child of every run in this test; see :class:`Child`."""
    stand_in = Child()
    monkeypatch.setattr("wiper_cli.commands.shared.run.ask", stand_in)
    return stand_in


@pytest.fixture
def scanned():
    """``scanned(**fields)``: the answer of a scan that found nothing."""
    nothing = {"salience": None, "findings": (), "explanation": None, "environment": {}, "timing": {}}
    given = {
        "model": {"opened": "full"}, "clean": {}, "preprocessing": {}, "detection": {"detectors": []},
    } | nothing  # fmt: skip

    def make(**fields):
        plain = {"sentence": "Nothing.", "not_done": (), "verdict": Verdict.NO_FINDING}
        return ScanAnswer(**given | plain | fields)

    return make
