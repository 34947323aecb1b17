"""The whole way: a model's code runs in the child as if every check of the file had failed, and the job ends without
a verdict, in one sentence."""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap
import time

import pytest

from wiper_cli.audit.requests import InspectRequest
from wiper_cli.verdict import ExitCode, Problem
from wiper_cli.worker import parent, watch
from wiper_cli.worker.watch import Allowance

#: A child whose pipeline is the attack: everything else is what runs in earnest.
CHILD = """
import sys, types
pipeline = sys.modules["wiper_cli.audit.pipeline"] = types.ModuleType("pipeline")
from wiper_cli.worker import child, confinement
from wiper_cli.worker.protocol import send
{before}
def run(request, report, interim):
{attack}
pipeline.run = run
child.main()
"""


@pytest.fixture
def attacked(monkeypatch, tmp_path):
    """``attacked(attack)`` → (what the user is told, how the child was confined)."""

    def run(attack, *, before="", mode="auto", timeout=60):
        script = tmp_path / "child.py"
        script.write_text(CHILD.format(before=before, attack=textwrap.indent(attack, "    ")))
        real, told = subprocess.Popen, []
        monkeypatch.setattr(
            parent.subprocess,
            "Popen",
            lambda command, **kw: real([sys.executable, script, command[-1]], **kw),
        )
        (tmp_path / "private").mkdir(exist_ok=True)
        request = InspectRequest(model=tmp_path / "private" / "model.pt")
        until = Allowance(timeout, time.monotonic())
        with pytest.raises(Problem) as caught:
            parent.ask(request, lambda *_: None, lambda _: None, until, mode, told.append)
        assert caught.value.exit_code == ExitCode.NO_VERDICT
        (isolation,) = told
        assert sorted(path.name for path in tmp_path.rglob("*")) == ["child.py", "private"]
        return str(caught.value), isolation

    return run


@pytest.mark.usefixtures("lockable")
@pytest.mark.parametrize(
    ("attack", "sentence"),
    [
        ("open(request.model.parent / 'written', 'w')", "something tried to write to a file"),
        ("open('/etc/passwd').read()", "was refused /etc/passwd: it may read what the command names"),
        ("import socket; socket.create_connection(('127.0.0.1', 1))", "was refused what it asked"),
        ("import os; os.fork()", "was refused what it asked"),
        ("import os; os.execv('/bin/true', ['true'])", "was refused /bin/true|was refused what it asked"),
        ("import os; os.kill(os.getppid(), 9)", "was refused what it asked"),
        ("import os; os._exit(0)", "ended with code 0 before it had a result"),
        ("import os; os.abort()", "was killed by signal 6"),
        ("held = []\nwhile True: held.append(b'x' * (10 << 20))", "GiB of memory"),
        ("import threading, time\nwhile True: threading.Thread(target=time.sleep, args=(60,)).start()", "threads"),
        ("while True: print('flood ' * 10000)", "MiB of messages"),
        ("import ctypes; ctypes.PyDLL(None).sleep(600)", "The time of 3 s is spent"),
        ("send(report._channel, confinement.Isolation())", "gave an answer that cannot be used: it is none of"),
    ],
)  # fmt: skip
def test_an_attack_ends_without_a_verdict(attack, sentence, attacked, monkeypatch):
    monkeypatch.setattr(watch, "SHARE", (300 << 20) / watch.free_memory())
    said, isolation = attacked(attack, timeout=3 if "sleep(600)" in attack else 60)
    assert re.search(sentence, said)
    assert isolation.confined
    assert "\n" not in said


@pytest.mark.usefixtures("lockable")
def test_what_is_required_and_missing_ends_it_before_the_model_is_opened(attacked):
    absent = """
def absent(name, *arguments):
    if name.startswith("landlock"):
        raise OSError(38, "not in this kernel")
    return real(name, *arguments)
real, confinement._call = confinement._call, absent
"""
    said, isolation = attacked("os._exit(7)", before=absent, mode="require")
    assert said == (
        "--isolation require cannot be met, and the model was not opened. Missing: landlock (not in this kernel)."
    )
    assert [layer.name for layer in isolation.missing] == ["landlock"]


@pytest.mark.usefixtures("lockable")
def test_nobody_s_tokens_are_given_to_the_child(attacked, monkeypatch):
    monkeypatch.setenv("SOME_TOKEN", "secret")
    tell = "import os\nfrom wiper_cli.verdict import Problem, ExitCode\n"
    tell += "told = [os.environ.get(name) for name in ('SOME_TOKEN', 'ORT_DISABLE_TELEMETRY')]\n"
    tell += "raise Problem(str(told), ExitCode.NO_VERDICT)"
    assert attacked(tell)[0] == "[None, '1']"
    said, isolation = attacked(tell, mode="off")
    assert (said, isolation.note) == ("['secret', '1']", "Missing: confinement (--isolation off).")


@pytest.mark.usefixtures("lockable")
def test_whoever_looks_for_a_library_finds_none_where_a_compiler_would_be_run(attacked):
    """A torch that was built for CUDA does while it is imported; ctypes then wants a file for the compiler."""
    attack = (
        "import ctypes.util, os, shutil\n"
        "shutil.which = lambda name, *_, **__: '/usr/bin/gcc'\n"
        "os._exit(7 if ctypes.util.find_library('wiper-no-such-library') is None else 8)"
    )
    assert "ended with code 7 before it had a result" in attacked(attack)[0]
