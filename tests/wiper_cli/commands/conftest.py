"""The command in this process: what a user types, what comes out."""

import json
import signal
import sys

import pytest

from wiper_cli.main import main
from wiper_cli.verdict import Problem
from wiper_cli.worker.parent import Answer


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
    """Stands for the child process: the same jobs, computed here. ``answers``: job → what to say instead."""

    def __init__(self):
        self.jobs, self.answers = [], {}

    def __call__(self, job, progress, log, timeout=None, payload=b""):
        from wiper_cli.audit import pipeline as audit

        class Reporter:
            def __call__(self, stage, done, total):
                progress(stage, done, total)

            def log(self, sentence):
                log(sentence)

        job = json.loads(json.dumps(job, allow_nan=False))
        self.jobs.append(job)
        answer = self.answers.get(job["job"])
        if isinstance(answer, Problem):
            raise answer
        if answer is not None:
            return Answer(answer)
        result, tensors = audit.JOBS[job["job"]](job, payload, Reporter())
        return Answer(json.loads(json.dumps(result, allow_nan=False)), tuple(tensors))


@pytest.fixture
def child(monkeypatch):
    """The child of every run in this test; see :class:`Child`."""
    stand_in = Child()
    monkeypatch.setattr("wiper_cli.commands.shared.run.run_job", stand_in)
    return stand_in
