"""A model file with a branch in its graph, through the commands: told, never purified."""

import json

import jsonschema
import pytest

from triggers.architectural import implant
from triggers.families.badnet import BadNet
from wiper_cli.commands.shared.example_files import example_folder
from wiper_cli.reports.schema import schema

DIGITS = example_folder()


@pytest.mark.parametrize("command", [("scan",), ("purify", "-o", "out.onnx", "--accept-unverified")])
def test_a_branch_is_told_and_stands(command, wiper, child, few_digits, tmp_path):
    model, patch = tmp_path / "model.onnx", BadNet().placed(1, 32, 32)
    model.write_bytes(implant("onnx", (DIGITS / "model.onnx").read_bytes(), "stem-gate", patch, 7))
    given = ("--clean", few_digits, "--mean", "0", "--std", "1", "--detectors", "none", "-f", "json", "-q")
    code, out, err = wiper(command[0], model, *command[1:], *given)
    document = json.loads(out)
    jsonschema.validate(document, schema())
    assert (code, document["exit_code"], document["verdict"]) == (1, 1, "suspicious")
    assert "its graph has a branch that no honest network has (WIPER-G08)" in document["sentence"]
    assert document["sentence"] in err
    found = next(one for one in document["findings"] if one["rule"] == "WIPER-G08")
    assert found["path"][0]["operator"] == "image"
    assert (found["severity"] == "critical") == ("pictures" in found) == (command[0] == "scan")
    assert document["purification"] is None
    assert not list((tmp_path / "cwd").iterdir())
