"""What other projects' CI runs: the action, the hooks of pre-commit, the component for GitLab, the image."""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from wiper_cli.commands.shared.example_files import example_folder
from wiper_cli.main import cli

ROOT = Path(__file__).resolve().parents[1]
ACTION = YAML(typ="safe").load(ROOT / "action.yml")
HOOKS = YAML(typ="safe").load(ROOT / ".pre-commit-hooks.yaml")
DESCRIBED, COMPONENT = YAML(typ="safe").load_all((ROOT / "templates" / "wiper.yml").read_text())
STEPS = {step.get("name", "Python"): step for step in ACTION["runs"]["steps"]}


@pytest.fixture
def command(tmp_path):
    """A folder on the path with ``wiper``, as an installation has it."""
    (tmp_path / "bin").mkdir()
    script = tmp_path / "bin" / "wiper"
    script.write_text(f'#!/bin/sh\nPYTHONPATH={ROOT} exec {sys.executable} -P -m wiper_cli.main "$@"\n')
    script.chmod(0o755)
    return script


def scanned(script, folder, models, **given):
    """The exit code of a step, and what it gave to the runner."""
    outputs = {"GITHUB_OUTPUT": folder / "output", "GITHUB_STEP_SUMMARY": folder / "summary"}
    done = subprocess.run(
        ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", script],
        env={
            "PATH": os.environ["PATH"], "HOME": str(folder), "RUNNER_TEMP": str(folder / "temp"), "MODELS": models,
            "OMP_NUM_THREADS": "1", "WIPER_FAIL_ON": "high", "ARGUMENTS": "--detectors none", "EFFORT": "",
            "REPORTS": "reports",
            **{name: str(value) for name, value in {**outputs, **given}.items()},
        },
        cwd=folder, capture_output=True, text=True, check=False,
    )  # fmt: skip
    return done, {name: path.read_text() if path.exists() else "" for name, path in outputs.items()}


def test_the_action_leaves_reports_and_summary_and_gates(command, tmp_path):
    (tmp_path / "temp" / "wiper").mkdir(parents=True)
    shutil.move(command.parent, tmp_path / "temp" / "wiper" / "bin")
    shutil.copytree(example_folder() / "clean", tmp_path / "clean images")
    shutil.copy(example_folder() / "model.onnx", tmp_path)
    (tmp_path / "bad.onnx").write_bytes(b"rubbish")
    done, told = scanned(STEPS["Scan"]["run"], tmp_path, "model.onnx bad.onnx", WIPER_CLEAN="clean images")
    assert done.returncode == 0, done.stderr
    assert told["GITHUB_OUTPUT"] == "sarif=reports/wiper.sarif\nexit-code=2\n"
    assert "steps.scan.outputs.sarif" in STEPS["Upload"]["if"]
    assert "always()" in STEPS["Gate"]["if"]
    assert "model.onnx" in told["GITHUB_STEP_SUMMARY"]
    assert {path.suffix for path in (tmp_path / "reports").iterdir()} == {
        ".sarif",
        ".json",
        ".xml",
        ".md",
        ".html",
    }
    assert json.loads((tmp_path / "reports" / "wiper.sarif").read_text())["runs"]
    gate = subprocess.run(["bash", "-c", STEPS["Gate"]["run"]], env={"CODE": "2"}, check=False)
    assert gate.returncode == 2


def test_a_wrong_call_is_told_by_the_action(command, tmp_path):
    (tmp_path / "temp" / "wiper").mkdir(parents=True)
    shutil.move(command.parent, tmp_path / "temp" / "wiper" / "bin")
    _, told = scanned(STEPS["Scan"]["run"], tmp_path, "$(touch harmed).onnx", WIPER_CLEAN="nowhere")
    assert told == {"GITHUB_OUTPUT": "exit-code=2\n", "GITHUB_STEP_SUMMARY": ""}
    assert not (tmp_path / "harmed").exists()


def test_nothing_that_a_user_gives_is_part_of_a_script():
    for step in ACTION["runs"]["steps"]:
        assert "${{" not in step.get("run", "")
    assert "$[[" not in " ".join(COMPONENT["wiper"]["script"])


def test_the_component_scans(command, tmp_path):
    shutil.copytree(example_folder() / "clean", tmp_path / "clean")
    shutil.copy(example_folder() / "model.onnx", tmp_path)
    install, *script = COMPONENT["wiper"]["script"]
    assert "pip install" in install
    script = "\n".join(script).replace("/tmp/wiper/bin/wiper", str(command))
    done, _ = scanned(script, tmp_path, "model.onnx", WIPER_CLEAN="clean")
    assert done.returncode == 3, done.stderr  # without detectors there is no verdict
    kept = [*COMPONENT["wiper"]["artifacts"]["paths"], COMPONENT["wiper"]["artifacts"]["reports"]["junit"]]
    assert all((tmp_path / name).stat().st_size for name in kept)
    assert {*COMPONENT["wiper"]["variables"]} >= {"MODELS", "WIPER_CLEAN"}
    assert {*DESCRIBED["spec"]["inputs"]} >= {"models", "clean", "source"}


@pytest.mark.parametrize("hook", HOOKS, ids=[hook["id"] for hook in HOOKS])
def test_the_hooks_call_what_exists(hook):
    program, name, *options = hook["entry"].split()
    assert program == "wiper"
    known = {option for parameter in cli().commands[name].params for option in parameter.opts}
    assert {*options} <= known
    assert re.search(hook["files"], "models/a.pth" if "pickles" in hook["id"] else "models/a.onnx")
    assert not re.search(hook["files"], "a.py")


def test_the_hook_refuses_a_hostile_file(command, tmp_path):
    (tmp_path / "a.safetensors").write_bytes((100).to_bytes(8, "little") + b'{"a":1,"a":2}' + b" " * 87)
    done = subprocess.run(
        [command, *HOOKS[0]["entry"].split()[1:], "a.safetensors"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1, done.stdout


def test_the_image_has_all_that_the_package_is_built_from():
    copied = re.findall(r"^COPY (.+) \S+$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    names = {name for line in copied for name in line.split()}
    assert all((ROOT / name).exists() for name in names)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert names >= {"formats", "triggers", "wiper_cli", "examples", "setup.py", project["project"]["readme"]}
