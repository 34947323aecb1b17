from __future__ import annotations

import os
import stat
import sys
import time

import pytest

from formats import Source
from wiper_cli.verdict import ExitCode, Problem
from wiper_cli.worker import parent
from wiper_cli.worker.parent import private_copy, run_job


@pytest.fixture
def child(monkeypatch, tmp_path):
    """Puts a script of the test in the child's place."""

    def install(code: str) -> None:
        script = tmp_path / "child.py"
        script.write_text(
            "import sys, os, time\n"
            "from wiper_cli.worker.protocol import *\n"
            "job, payload = receive(sys.stdin.buffer), receive(sys.stdin.buffer)\n" + code
        )
        real = parent.subprocess.Popen
        monkeypatch.setattr(
            parent.subprocess, "Popen", lambda command, **kw: real([sys.executable, str(script)], **kw)
        )

    return install


def run(timeout=None, payload=b""):
    said = []
    answer = run_job({"job": "x"}, lambda *p: said.append(p), said.append, timeout, payload)
    return answer, said


def test_an_answer_with_progress_and_tensors(child):
    child(
        "out = sys.stdout.buffer\n"
        "send_json(out, {'progress': ['stage', 1, 2]})\n"
        "send_json(out, {'log': 'remark'})\n"
        "send_tensors(out, payload[1] * 2)\n"
        "send_json(out, {'result': {'job': job[1]['job']}})\n"
    )
    answer, said = run(payload=b"ab")
    assert answer.result == {"job": "x"}
    assert answer.tensors == (b"abab",)
    assert said == [("stage", 1, 2), "remark"]


def test_a_problem_of_the_child_is_ours(child):
    child("send_json(sys.stdout.buffer, {'problem': 'Too few images.', 'exit_code': 3})")
    with pytest.raises(Problem, match="Too few images") as caught:
        run()
    assert caught.value.exit_code == ExitCode.NO_VERDICT


@pytest.mark.parametrize(
    ("code", "sentence"),
    [
        ("os.kill(os.getpid(), 9)", "killed by signal 9"),
        ("sys.exit('the last words')", "ended with code 1.*the last words"),
        ("sys.stdout.buffer.write(b'garbage' * 9)", "before it had a result"),
        ("pass", "ended with code 0"),
    ],
    ids=["killed", "dies", "garbage", "silent"],
)
def test_a_dead_child_is_no_verdict(child, code, sentence):
    child(code)
    with pytest.raises(Problem, match=sentence) as caught:
        run()
    assert caught.value.exit_code == ExitCode.NO_VERDICT


def test_time_runs_out(child):
    child("time.sleep(60)")
    began = time.monotonic()
    with pytest.raises(Problem, match="time of 1 s is spent") as caught:
        run(timeout=1)
    assert caught.value.exit_code == ExitCode.NO_VERDICT
    assert time.monotonic() - began < 30


def test_the_private_copy_is_ours_alone_and_goes_away():
    source = Source("m.onnx", b"model", {"w.data": b"weights"}, {"config.json": b"{}"})
    with private_copy(source) as copy:
        assert copy.name == "m.onnx"
        assert copy.read_bytes() == b"model"
        assert (copy.parent / "w.data").read_bytes() == b"weights"
        assert stat.S_IMODE(copy.parent.stat().st_mode) == 0o700
    assert not copy.parent.exists()


def test_an_interrupt_ends_the_child(child, monkeypatch, tmp_path):
    child(f"open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid()))\ntime.sleep(60)")

    def interrupted(stream):
        while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
            time.sleep(0.01)
        raise KeyboardInterrupt

    monkeypatch.setattr(parent, "receive", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run()
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def test_modules_in_the_working_directory_are_not_run(hostile):
    """The working directory may be the folder of an untrusted model."""
    with pytest.raises(Problem, match="no-such-file"):
        run_job({"job": "inspect", "model": "no-such-file", "arch": None}, lambda *_: None, lambda _: None)
    assert hostile() == []


def test_no_temporary_folder_is_a_sentence(monkeypatch, tmp_path):
    monkeypatch.setattr(parent.tempfile, "tempdir", str(tmp_path / "none"))
    with pytest.raises(Problem, match="TMPDIR"), private_copy(Source("m.onnx", b"x", {})):
        pass
