"""What parses the bytes of a model file has a process of its own: bounded, confined, and ended in one sentence."""

from __future__ import annotations

import sys
import textwrap
import time
from dataclasses import replace

import pytest
from refusals import refused

from formats import Edit, Hostile, NewTensor, Source, read_source
from formats.write import write_edit
from wiper_cli.commands.shared.example_files import example_folder
from wiper_cli.verdict import ExitCode
from wiper_cli.worker import gate, parent
from wiper_cli.worker.confinement import Bounds
from wiper_cli.worker.gate import GateAnswer, GateJob, WriteJob
from wiper_cli.worker.watch import Allowance

DIGITS = example_folder()

#: A gate with another way to judge; everything else is what runs in earnest.
CHILD = """
import sys
from wiper_cli.worker import child, gate
def judge(job):
{attack}
gate._STORIES[gate.GateJob] = judge
child.main()
"""


BOUNDS = Bounds(memory=1 << 30, seconds=30)


def ask(job, bounds=BOUNDS, timeout=120, mode="auto"):
    until = Allowance(timeout, time.monotonic())
    return parent.ask(job, lambda *_: None, lambda _: None, until, mode, bounds=bounds)


@pytest.fixture
def judging(monkeypatch, tmp_path):
    """``judging(attack)``: asks a gate that runs this code over a file."""

    def run(attack, **how):
        (tmp_path / "child.py").write_text(CHILD.format(attack=textwrap.indent(attack, "    ")))
        real = parent.subprocess.Popen
        monkeypatch.setattr(
            parent.subprocess,
            "Popen",
            lambda command, **kw: real([sys.executable, tmp_path / "child.py", command[-1]], **kw),
        )
        (tmp_path / "private").mkdir(exist_ok=True)
        return ask(GateJob(model=tmp_path / "private" / "m"), **how)

    return run


@pytest.mark.parametrize("name", ["model.safetensors", "model.torchscript.pt", "model.onnx"])
def test_an_honest_file_is_described_and_written(name):
    job = GateJob(model=DIGITS / name)
    answer = ask(job)
    assert answer == gate.judge(job)
    assert (answer.locations, answer.dtypes) == ((), ("F32",) if name.endswith("onnx") else ("F32", "I64"))
    source = read_source(DIGITS / name)
    assert answer.parameters * 4 < source.size * 1.1
    manifest = gate.inspect(source)
    address = max(manifest.tensors.values(), key=lambda a: a.length)
    edit = Edit({address.name: NewTensor("F32", address.shape, b"\1" * address.size)})
    written = ask(WriteJob(model=DIGITS / name, edit=edit, name="out"))
    assert {n: new.data for n, new in written.files.items()} == {
        "out": write_edit(source, manifest, edit)[""]
    }


def test_external_data_is_named_first_and_read_when_it_lies_there(tmp_path):
    import numpy as np
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    weight = numpy_helper.from_array(np.ones((4, 4), np.float32), "w")
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, (1, 4)) for n in "xy"]
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])], "g", ends[:1], ends[1:], [weight]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, tmp_path / "m.onnx", save_as_external_data=True, location="w.data", size_threshold=0)
    weights = (tmp_path / "w.data").read_bytes()
    (tmp_path / "w.data").unlink()
    job = GateJob(model=tmp_path / "m.onnx")
    assert ask(job) == GateAnswer(kind="onnx", locations=("w.data",))
    (tmp_path / "w.data").write_bytes(weights)
    assert (ask(replace(job, complete=True)).tensors, ask(replace(job, complete=True)).parameters) == (1, 16)


def test_a_hostile_file_is_one(tmp_path):
    (tmp_path / "m").write_bytes(b"\x14\0\0\0\0\0\0\0" + b'{"a": {}, "a": {}  }')
    with pytest.raises(Hostile) as caught:
        ask(GateJob(model=tmp_path / "m"))
    assert caught.value.rule.startswith("WIPER-ST-")


@pytest.mark.skipif(sys.platform != "linux", reason="limits on memory are kept by Linux alone")
@pytest.mark.parametrize("mode", ["auto", "off"])
@pytest.mark.parametrize(
    ("attack", "sentence"),
    [
        ("held = [b'x' * (200 << 20) for _ in range(9)]", "takes more than 1024 MiB."),
        ("held = []\nwhile True: held.append({})", "takes more than 1024 MiB."),
        ("while True: pass", "takes more than 3 s of processor time."),
        ("import zlib\nwhile True: zlib.crc32(bytes(1 << 20))", "takes more than 3 s of processor time."),
        ("raise ValueError('x' * 5000)", r"ValueError in child.py:\d+."),
        ("return judge(job)", r"RecursionError in child.py:\d+."),
    ],
)  # fmt: skip
def test_what_takes_too_much_is_no_verdict(judging, attack, sentence, mode):
    with refused(f"^The file was not read to its end: (that )?{sentence}", ExitCode.NO_VERDICT):
        judging(attack, bounds=BOUNDS._replace(seconds=3) if "processor" in sentence else BOUNDS, mode=mode)


def test_time_covers_the_gate(judging):
    with refused("The time of 1 s is spent", ExitCode.NO_VERDICT):
        judging("import time; time.sleep(60)", timeout=1)


def test_nobody_waits_for_an_interpreter_to_end(judging):
    began = time.monotonic()
    answer = "return gate.GateAnswer(kind='onnx', locations=())"
    assert judging(f"import atexit, time\natexit.register(time.sleep, 25)\n{answer}").kind == "onnx"
    assert time.monotonic() - began < 20


@pytest.mark.usefixtures("lockable")
@pytest.mark.parametrize(
    ("attack", "sentence"),
    [
        ("open(job.model.parent / 'written', 'w')", "something tried to write to a file"),
        ("open('/etc/passwd').read()", "was refused /etc/passwd"),
        ("import socket; socket.socket()", "was refused what it asked"),
        ("import os; os.fork()", "was refused what it asked"),
        ("import os; os.abort()", "was killed by signal 6"),
        (
            "return job",
            "gave an answer that cannot be used: it is none of Progress, Log, Refusal, GateAnswer",
        ),
    ],
)
def test_a_gate_that_was_taken_over_is_confined(judging, attack, sentence, tmp_path):
    with refused(sentence, ExitCode.NO_VERDICT):
        judging(attack)
    assert not (tmp_path / "private" / "written").exists()


@pytest.mark.usefixtures("lockable")
def test_a_module_without_bytecode_may_still_be_imported(judging, tmp_path, monkeypatch):
    monkeypatch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
    (tmp_path / "private" / "__pycache__").mkdir(parents=True)
    (tmp_path / "private" / "fresh.py").write_text("raise LookupError")
    with refused(r"LookupError in fresh.py:1\.", ExitCode.NO_VERDICT):
        judging("sys.path.append(str(job.model.parent))\nimport fresh")


@pytest.mark.usefixtures("lockable")
def test_confinement_can_be_required(tmp_path):
    (tmp_path / "m").write_bytes((DIGITS / "model.onnx").read_bytes())
    assert ask(GateJob(model=tmp_path / "m"), mode="require").kind == "onnx"


def test_what_is_said_is_bounded(monkeypatch, tmp_path):
    (tmp_path / "m").write_bytes((DIGITS / "model.onnx").read_bytes())
    real = gate.inspect
    noisy = lambda source: replace(real(source), notes=("n" * 10_000,) * 10_000)  # noqa: E731
    monkeypatch.setattr(gate, "inspect", noisy)
    notes = gate.judge(GateJob(model=tmp_path / "m")).notes
    assert (len(notes), {*map(len, notes)}) == (gate.MOST_NOTES, {gate.LONGEST_NOTE})
    monkeypatch.setattr(gate, "external_locations", lambda source: ["w"] * (gate.MOST_FILES + 1))
    with pytest.raises(gate.Unsupported, match="10001 files"):
        gate.judge(GateJob(model=tmp_path / "m"))


def test_bounds_grow_with_the_file():
    small, large = (gate.bounds(Source("m", b"", {"w": bytes(size)})) for size in (0, 64 << 20))
    assert small == Bounds(1 << 30, 10)
    assert large == Bounds(5 << 28, 18)
