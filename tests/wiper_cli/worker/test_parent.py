from __future__ import annotations

import os
import stat
import sys
import time
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest
from refusals import refused

from formats import Hostile, NewTensor, Source
from wiper_cli.audit.answers import CheckAnswer
from wiper_cli.audit.requests import CheckRequest, InspectRequest, KnownTrigger, VerifyRequest
from wiper_cli.verdict import ExitCode, Problem
from wiper_cli.worker import parent
from wiper_cli.worker.parent import ask, private_copy
from wiper_cli.worker.watch import Allowance


@pytest.fixture
def child(monkeypatch, tmp_path):
    """Puts a script of the test in the child's place."""

    def install(code: str) -> None:
        script = tmp_path / "child.py"
        script.write_text(
            "import json, os, struct, sys, time\n"
            "from wiper_cli.audit.answers import CheckAnswer\n"
            "from wiper_cli.audit.requests import *\n"
            "from wiper_cli.worker.confinement import Isolation, Layer\n"
            "from wiper_cli.worker.protocol import *\n"
            "def frame(kind, data): out.write(struct.pack('<Qc', len(data), kind) + data); out.flush()\n"
            "out, request = sys.stdout.buffer, receive(sys.stdin.buffer, CheckRequest)\n"
            "send(out, Isolation((Layer('only', True, ''),)))\n" + code
        )
        real = parent.subprocess.Popen
        monkeypatch.setattr(
            parent.subprocess, "Popen", lambda command, **kw: real([sys.executable, str(script)], **kw)
        )

    return install


def run(timeout=None):
    said = []
    request = CheckRequest(model=Path("m"), dtypes=("F32",), expected={"w": NewTensor("F32", (1,), b"1234")})
    until = Allowance(timeout, time.monotonic()) if timeout else Allowance()
    return ask(request, lambda *progress: said.append(progress), said.append, until), said


@pytest.mark.parametrize(
    ("given", "told"),
    [({}, "10000"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "None"), ({"GOMP_SPINCOUNT": "7"}, "7")],
)
def test_threads_spin_for_a_moment_only_unless_told_otherwise(child, monkeypatch, given, told):
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    child(
        "send(out, Log(str(os.environ.get('GOMP_SPINCOUNT'))))\n"
        "send(out, CheckAnswer(largest_logit_difference=0.5, agrees=True))\n"
    )
    assert told in run()[1]


def test_an_answer_with_progress_and_tensors(child):
    child(
        "send(out, Progress('stage', 1, 2))\n"
        "send(out, Log(request.expected['w'].data.decode()))\n"
        "send(out, CheckAnswer(largest_logit_difference=0.5, agrees=True))\n"
    )
    answer, said = run()
    assert answer == CheckAnswer(largest_logit_difference=0.5, agrees=True)
    assert said == [("stage", 1, 2), "1234"]


def test_a_problem_of_the_child_is_ours(child):
    child("send(out, Refusal('Too few images.', ExitCode.NO_VERDICT))")
    with refused("Too few images", ExitCode.NO_VERDICT):
        run()


def test_a_hostile_file_is_one_here_too(child):
    child("send(out, Refusal('Two of them.', ExitCode.FINDING, 'WIPER-TS-004', 'data.pkl'))")
    with pytest.raises(Hostile, match="Two of them") as caught:
        run()
    assert (caught.value.rule, caught.value.place) == ("WIPER-TS-004", "data.pkl")


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("out.write(b'garbage' * 9)", "a frame is of an unknown kind"),
        ("frame(b'J', b'[' * 99999)", "its JSON does not parse"),
        ("frame(b'J', b'{\"ScanAnswer\": {}}')", "it is none of Progress, Log, Refusal, CheckAnswer"),
        ("frame(b'J', b'{\"CheckAnswer\": {\"agrees\": true}}')", "largest_logit_difference is not there"),
        ("send(out, Refusal('a', 7))", "exit_code is not one of"),
        ("send(out, Refusal('', ExitCode.OK))", "it refuses without a reason"),
        ("send(out, Refusal('', ExitCode.USAGE, verdict=Verdict.NO_FINDING))", "it refuses without a reason"),
        ("frame(b'T', b'\\1a')\nsend(out, CheckAnswer(largest_logit_difference=None, agrees=True))", "not expected"),
    ],
)  # fmt: skip
def test_an_answer_that_cannot_be_used_is_no_verdict(child, code, words):
    child(code)
    with refused(f"^The worker process gave an answer .* used: .*{words}", ExitCode.NO_VERDICT):
        run()


@pytest.mark.parametrize(
    ("code", "sentence"),
    [
        ("os.kill(os.getpid(), 9)", "killed by signal 9"),
        ("sys.exit('the last words')", "ended with code 1.*the last words"),
        ("out.write(b'half')", "before it had a result"),
        ("pass", "ended with code 0"),
    ],
    ids=["killed", "dies", "ends half-way", "silent"],
)
def test_a_dead_child_is_no_verdict(child, code, sentence):
    child(code)
    with refused(sentence, ExitCode.NO_VERDICT):
        run()


def test_time_runs_out(child):
    child("time.sleep(60)")
    began = time.monotonic()
    with refused("time of 1 s is spent", ExitCode.NO_VERDICT):
        run(timeout=1)
    assert time.monotonic() - began < 30


def test_the_private_copy_is_ours_alone_and_goes_away():
    source = Source("m.onnx", b"model", {"w.data": b"weights"}, {"config.json": b"{}"})
    with private_copy(source) as copy:
        assert (copy.name, copy.read_bytes()) == ("m.onnx", b"model")
        assert (copy.parent / "w.data").read_bytes() == b"weights"
        assert stat.S_IMODE(copy.parents[1].stat().st_mode) == 0o700
    assert not copy.parents[1].exists()


def test_an_interrupt_ends_the_child(child, monkeypatch, tmp_path):
    child(f"open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid()))\ntime.sleep(60)")

    def interrupted(stream, *_):
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
        ask(InspectRequest(model=Path("no-such-file")), lambda *_: None, lambda _: None)
    assert hostile() == []


def test_no_temporary_folder_is_a_sentence(monkeypatch, tmp_path):
    monkeypatch.setattr(parent.tempfile, "tempdir", str(tmp_path / "none"))
    with pytest.raises(Problem, match="TMPDIR"), private_copy(Source("m.onnx", b"x", {})):
        pass


def test_a_child_may_read_what_its_request_names():
    """And what lies around a model, which is a copy of ours, and around a program of the user's."""
    asked = VerifyRequest(
        model=Path("/a/m.onnx"), purified=Path("/b/m.onnx"), arch="net/make.py:build", clean=Path("clean"),
        trigger_files=(Path("t"), Path("u")), known=KnownTrigger(image=Path("i.png")), poisoned=Path("p"),
    )  # fmt: skip
    around = {"/a", "/b", "net", "/a/m.onnx", "/b/m.onnx"}
    assert {*map(str, parent.readable(asked))} == around | {"clean", "t", "u", "i.png", "p"}
    assert [*parent.readable(InspectRequest(model=Path("/a/m"), arch="resnet18"))] == [
        Path("/a"),
        Path("/a/m"),
    ]


def test_bytecode_is_written_once_before_the_first_child_is_confined(monkeypatch, tmp_path):
    (tmp_path / "torch").mkdir()
    cached = tmp_path / "torch" / "__pycache__" / "x.pyc"
    spec = ModuleSpec("torch", None, origin=str(tmp_path))
    spec.cached, ran = str(cached), []
    monkeypatch.setattr(parent, "find_spec", lambda name: spec)
    monkeypatch.setattr(parent.subprocess, "run", lambda command, **_: ran.append(command))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    parent._compile({})
    assert not ran
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    parent._compile({})
    assert "wiper_cli.audit.pipeline" in ran[0][-1]
    cached.parent.mkdir()
    cached.touch()
    parent._compile({})
    assert len(ran) == 1
