"""The whole path on the bundled example, through the command as installed, in three formats."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import jsonschema
import numpy as np
import pytest

from wiper_cli.commands.shared.example_files import example_folder
from wiper_cli.reports.schema import schema

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[3]
DIGITS = example_folder()
FORMATS = ("model.safetensors", "model.torchscript.pt", "model.onnx")
TRIGGER = ("--trigger-image", DIGITS / "trigger.png", "--mask", DIGITS / "mask.png")


def wiper(*arguments):
    """Exit code and the validated JSON result."""
    outcome = subprocess.run(
        [sys.executable, "-m", "wiper_cli.main", *map(str, arguments), "-f", "json"],
        capture_output=True, text=True, timeout=900, check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert "Traceback" not in outcome.stderr, outcome.stderr
    document = json.loads(outcome.stdout)
    jsonschema.validate(document, schema())
    assert document["exit_code"] == outcome.returncode
    return outcome.returncode, document


def tensors(path):
    """Name → values, as plain libraries read the file."""
    if path.suffix == ".safetensors":
        from safetensors.numpy import load_file

        return load_file(path)
    if path.suffix == ".onnx":
        import onnx
        from onnx import numpy_helper

        return {t.name: numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer}
    import torch

    module = torch.jit.load(str(path))
    return {name: value.detach().numpy() for name, value in module.state_dict().items()}


@pytest.mark.parametrize("name", FORMATS)
def test_purified_files_open_in_plain_libraries_and_only_what_changed_changed(name, tmp_path, few_digits):
    out = tmp_path / name
    code, result = wiper(
        "purify", DIGITS / name, "--clean", few_digits, "-o", out, "--method", "fine-tuning", "--train", "head",
        "--epochs", "2", "--detectors", "none", "--accept-unverified",
    )  # fmt: skip
    assert code == 0, result["sentence"]
    assert result["purification"]["output"]["largest_logit_difference"] < 1e-4
    before, after = tensors(DIGITS / name), tensors(out)
    assert before.keys() == after.keys()
    differing = {key for key in before if not np.array_equal(before[key], after[key])}
    assert differing == {row["address"] for row in result["purification"]["changed"]}
    head = result["model"]["head"]
    assert (differing, out.stat().st_size) == ({head["weight"], head["bias"]}, (DIGITS / name).stat().st_size)
    assert sorted(p.name for p in tmp_path.iterdir()) == [name]


def test_scan_finds_the_planted_patch_and_names_its_target():
    code, result = wiper("scan", DIGITS / "model.torchscript.pt", "--clean", DIGITS / "clean")
    assert (code, result["verdict"]) == (1, "suspicious")
    squares = next(d for d in result["detection"]["detectors"] if d["name"] == "square-probe")
    assert squares["fired"]
    assert squares["target"] == 0
    assert squares["trigger"]["pictures"]["triggered"].startswith("data:image/png;base64,")
    assert len(result["salience"]["units"]) == result["model"]["head"]["units"]


@pytest.mark.parametrize("command", [("scan",), ("purify", "-o", "OUT")])
def test_an_interrupt_keeps_what_was_found(command, tmp_path):
    """As soon as the first detector is through, while the others work."""
    name, *more = [str(tmp_path / "out.onnx") if word == "OUT" else word for word in command]
    scan = subprocess.Popen(
        [
            sys.executable, "-m", "wiper_cli.main", name, DIGITS / "model.onnx", *more, "--clean", DIGITS / "clean",
            "--detectors", "square-probe,warp-inversion,shape-probe,max-margin", "--effort", "thorough", "-f", "json",
        ],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert any(line.startswith("square-probe (") for line in scan.stderr)
    scan.send_signal(signal.SIGINT)
    out, err = scan.communicate(timeout=60)
    result = json.loads(out)
    jsonschema.validate(result, schema())
    assert scan.returncode == 1, err
    assert (result["verdict"], result["findings"][0]["rule"]) == ("suspicious", "WIPER-B03")
    assert result["sentence"].endswith("It was interrupted.")
    ran = [one["ran"] for one in result["detection"]["detectors"]]
    assert ran[0]
    assert not ran[-1]
    assert list(tmp_path.iterdir()) == []


def test_scan_does_not_accuse_the_clean_twin():
    code, result = wiper("scan", DIGITS / "twin.safetensors", "--clean", DIGITS / "clean")
    assert code == 0, result["sentence"]
    assert result["verdict"] == "no_finding"


def test_the_default_removes_the_backdoor_and_verify_shows_it(tmp_path):
    out = tmp_path / "purified.onnx"
    code, result = wiper("purify", DIGITS / "model.onnx", "--clean", DIGITS / "clean", "-o", out)
    assert code == 0, result["sentence"]
    code, result = wiper(
        "verify", DIGITS / "model.onnx", out, "--clean", DIGITS / "clean", "--triggers", "none", *TRIGGER
    )
    assert code == 0, result["sentence"]
    before, after = result["verification"]["before"], result["verification"]["after"]
    assert before["triggers"][0]["asr"]["value"] > 0.99
    assert after["triggers"][0]["asr"]["value"] < 0.05
    assert after["acc"]["value"] > before["acc"]["value"] - 0.02


def test_verify_condemns_the_original(few_digits):
    code, result = wiper(
        "verify", DIGITS / "model.safetensors", "--clean", few_digits, "--triggers", "none", *TRIGGER
    )
    assert (code, result["findings"][0]["rule"]) == (1, "WIPER-B04")
    assert result["verification"]["before"]["triggers"][0]["target"] == 0


def test_a_poisoned_folder_is_measured(tmp_path, few_digits):
    from PIL import Image

    trigger = Image.open(DIGITS / "trigger.png").convert("L")
    mask = Image.open(DIGITS / "mask.png").convert("L")
    for picture in few_digits.rglob("*.png"):
        image = Image.open(picture).convert("L")
        image.paste(trigger, (0, 0), mask)
        place = tmp_path / picture.relative_to(few_digits)
        place.parent.mkdir(exist_ok=True)
        image.save(place)
    code, result = wiper(
        "verify", DIGITS / "model.onnx", "--clean", few_digits, "--triggers", "none", "--poisoned", tmp_path,
        "--target", "0",
    )  # fmt: skip
    assert code == 1
    assert result["verification"]["before"]["triggers"][0]["asr"]["value"] > 0.99


def test_several_files_give_one_document_and_the_gravest_code(few_digits, tmp_path):
    (tmp_path / "none.onnx").write_bytes(b"")
    code, result = wiper("inspect", DIGITS / "model.onnx", tmp_path / "none.onnx")
    assert (code, [report["exit_code"] for report in result["reports"]]) == (2, [0, 2])
