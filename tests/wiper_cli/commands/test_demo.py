"""The demo's story, with the commands it runs replaced by their results."""

import json
import subprocess
import threading
import types
from pathlib import Path

import pytest

from wiper_cli.commands import demo as module
from wiper_cli.commands.shared.example_files import example_folder


def measured(acc, asr, ra):
    return {"acc": {"value": acc}, "triggers": [{"asr": {"value": asr}, "ra": {"value": ra}}]}


RESULTS = {
    "scan": {"exit_code": 1, "sentence": "Suspicious."},
    "purify": {"exit_code": 0, "sentence": "Accepted.", "purification": {"accepted": True}},
    "verify": {
        "exit_code": 0,
        "sentence": "Measured.",
        "verification": {"before": measured(0.99, 1.0, 0.0), "after": measured(0.98, 0.01, 0.97)},
    },
}


@pytest.fixture
def commands(monkeypatch):
    """``commands.calls``: what was run; ``commands.results``: (command) → its JSON, or ``None`` for no file."""
    stand_in = types.SimpleNamespace(calls=[], results=dict(RESULTS))

    def run(call, env, **_):
        command, arguments = call[4], call[5:]
        stand_in.calls.append((command, arguments))
        path = next(one for one in arguments if one.startswith("json=")).removeprefix("json=")
        result = stand_in.results[command]
        if result is not None:
            Path(path).write_text(json.dumps(result))
        code = 2 if result is None else result["exit_code"]
        return subprocess.CompletedProcess(call, code, "", "first\nwiper: It went wrong.\n")

    monkeypatch.setattr(module.subprocess, "run", run)
    return stand_in


def test_three_files_are_scanned_purified_and_verified(wiper, commands, tmp_path):
    code, out, _ = wiper("demo", "--format", "all", "-o", tmp_path / "out")
    assert (code, len(commands.calls)) == (0, 9)
    for name in ("model.safetensors", "model.torchscript.pt", "model.onnx"):
        mine = [
            command for command, arguments in commands.calls if arguments[0] == str(example_folder() / name)
        ]
        assert mine == ["scan", "purify", "verify"]
        (row,) = [line for line in out.splitlines() if line.startswith(name)]
        for part in ("99.0 → 98.0 %", "100.0 → 1.0 %", "0.0 → 97.0 %"):
            assert part in row
    assert f"Look at the report in a browser: {tmp_path / 'out' / 'model.onnx.html'}" in out
    for command, arguments in commands.calls:
        # The purifier is told neither the trigger nor the class.
        assert ("--trigger-image" in arguments) == (command == "verify")
        assert "--target" not in arguments


@pytest.mark.parametrize(
    ("asked", "name"), [((), "model.onnx"), (("--format", "safetensors"), "model.safetensors")]
)
def test_one_file_alone(asked, name, wiper, commands, tmp_path):
    code, out, _ = wiper("demo", *asked, "-o", tmp_path / "out")
    assert (code, len(commands.calls)) == (0, 3)
    assert {arguments[0] for _, arguments in commands.calls} == {str(example_folder() / name)}
    assert f"Look at the report in a browser: {tmp_path / 'out' / f'{name}.html'}" in out


@pytest.mark.parametrize(
    ("command", "result"),
    [
        ("scan", {"exit_code": 0, "sentence": "No finding."}),
        ("purify", {"exit_code": 1, "sentence": "Not accepted.", "purification": {"accepted": False}}),
        ("purify", {"exit_code": 3, "sentence": "No verdict.", "purification": None}),
        ("verify", {"exit_code": 3, "sentence": "No verdict.", "verification": None}),
    ],
)
def test_a_story_that_goes_otherwise_is_told_and_fails(command, result, wiper, commands, tmp_path):
    commands.results[command] = result
    code, out, _ = wiper("demo", "-o", tmp_path / "out")
    assert code == 2
    assert result["sentence"] in out
    if command == "purify":
        assert out.count("not purified") == 1


def test_an_old_result_is_not_taken_for_a_new_one(wiper, commands, tmp_path):
    assert wiper("demo", "-o", tmp_path / "out")[0] == 0
    commands.results["scan"] = None
    code, _, err = wiper("demo", "-o", tmp_path / "out")
    assert code == 2
    assert "'wiper scan' gave no result: wiper: It went wrong." in err


def test_an_output_that_is_a_file(wiper, commands, tmp_path):
    (tmp_path / "file").write_text("x")
    code, _, err = wiper("demo", "-o", tmp_path / "file")
    assert code == 2
    assert "cannot be used as a folder" in err
    assert commands.calls == []


def test_the_commands_are_not_looked_for_in_the_working_directory(tmp_path, monkeypatch):
    for name in ("wiper_cli", "formats", "torch"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('from the working directory')")
    monkeypatch.chdir(tmp_path)
    run = module.Run(example_folder(), tmp_path, 1, threading.Lock(), 0.0)
    assert run._wiper("model.onnx", "inspect", example_folder() / "model.onnx")["exit_code"] == 0
