"""``wiper scan --explain``: the folder is looked at first, and what it shows reaches every report."""

import json

import jsonschema
import pytest

from wiper_cli.commands.shared.example_files import example_folder
from wiper_cli.reports.schema import schema

DIGITS = example_folder()
QUICK = ("--detectors", "none", "--input-size", "32", "--mean", "0", "--std", "1", "-q")


@pytest.fixture
def scan(wiper, child, few_digits):
    """``scan(*arguments, name=…)`` → (exit code, stdout, stderr)."""

    def run(*arguments, name="model.onnx"):
        return wiper("scan", DIGITS / name, "--clean", few_digits, *QUICK, *arguments)

    return run


def test_a_missing_folder_is_refused_before_the_model_is_opened(scan, child, tmp_path):
    code, _, err = scan("--explain", tmp_path / "none")
    assert code == 2
    assert f"The folder of triggered images {tmp_path / 'none'} does not exist." in err
    code, _, err = scan("--explain", DIGITS / "trigger.png")
    assert code == 2
    assert "is not a folder" in err
    assert child.requests == []


def test_without_triggered_images_nothing_is_explained(scan, child):
    _, out, _ = scan("-f", "json")
    assert child.requests[0].explain is None
    document = json.loads(out)
    assert document["explanation"] is None
    assert document["preprocessing"]["origin"].startswith(
        "Input 32x32, as --input-size says. Mean and std as given"
    )


def test_the_same_in_all_three_formats(scan, few_digits, tmp_path):
    found = []
    for name in ("model.safetensors", "model.torchscript.pt", "model.onnx"):
        page = tmp_path / f"{name}.html"
        code, out, _ = scan("--explain", few_digits / "3", "-f", "json", "-f", f"html={page}", name=name)
        document = json.loads(out)
        jsonschema.validate(document, schema())
        assert code == document["exit_code"] == 3
        found.append(document["explanation"])
        assert "Where units look" in page.read_text("utf-8")
        assert len(found[-1]["bs"]) == len(document["salience"]["units"]) == 48
    for shown in found:
        # Clean threes, so that nothing leads elsewhere.
        assert (shown["target"], shown["moved"]) == (3, found[0]["moved"])
        assert (shown["am"], len(shown["pictures"])) == (pytest.approx(found[0]["am"], rel=1e-3, abs=1e-5), 3)
