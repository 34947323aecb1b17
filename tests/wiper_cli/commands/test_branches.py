"""A model file with a branch in its graph, through the commands: told, never purified, left behind by a rebuild."""

import json

import jsonschema
import pytest
import torch
from safetensors.torch import load_file

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


@pytest.fixture(scope="module")
def gated(tmp_path_factory):
    model, patch = tmp_path_factory.mktemp("gated") / "model.pt", BadNet().placed(1, 32, 32)
    model.write_bytes(
        implant("torchscript", (DIGITS / "model.torchscript.pt").read_bytes(), "stem-gate", patch, 7)
    )
    return model


def test_rebuilding_leaves_the_branch_behind(gated, wiper, child):
    code, out, _ = wiper("rebuild", gated, "--arch", "research/vgg11-bn", "-o", "out.safetensors", "-q")
    assert code == 0
    assert "58 tensors moved into research/vgg11-bn.\nLeft in " in out
    assert "has no place: constants.c0, constants.c1" in out
    assert "Scan it before use." in out
    honest, ours = (load_file(path) for path in (DIGITS / "model.safetensors", "out.safetensors"))
    assert honest.keys() == ours.keys()
    assert all(torch.equal(honest[name], ours[name]) for name in honest)
    assert [type(one).__name__ for one in child.requests] == ["RebuildRequest", "InspectRequest"]


@pytest.mark.parametrize(
    ("given", "code", "said"),
    [
        ((), 2, "--arch NAME, or --arch FILE.py:FACTORY"),
        (("--arch", "resnet50"), 2, "do not fit the tensors of this file"),
        (("--arch", "research/vgg11-bn", "-o", "there"), 2, "there exists already"),
    ],
)
def test_what_cannot_be_rebuilt_writes_nothing(given, code, said, gated, wiper, child, tmp_path):
    (tmp_path / "cwd" / "there").write_text("kept")
    found, out, err = wiper("rebuild", gated, "-o", "out.safetensors", *given, "-q")
    assert (found, out) == (code, "")
    assert said in err
    assert [path.name for path in (tmp_path / "cwd").iterdir()] == ["there"]
    assert (tmp_path / "cwd" / "there").read_text() == "kept"
