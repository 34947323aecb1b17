"""A file whose network is not what is served: every command ends with the finding, and nothing is written."""

import json

import jsonschema
import onnx
import pytest

from wiper_cli.commands.shared.example_files import example_folder
from wiper_cli.reports.schema import schema

DIGITS = example_folder()


@pytest.fixture
def looking(tmp_path):
    """The digits in ONNX, with logits turned round for batches of one."""
    model = onnx.load(DIGITS / "model.onnx")
    entry, end = model.graph.input[0].name, model.graph.output[0]
    made = onnx.helper.make_node
    model.graph.node.extend(
        [
            made("Shape", [entry], ["look.shape"]),
            made("Gather", ["look.shape", "look.zero"], ["look.n"]),
            made("Equal", ["look.n", "look.one"], ["look.alone"]),
            made("Neg", [end.name], ["look.turned"]),
            made("Where", ["look.alone", "look.turned", end.name], ["look.end"]),
        ]
    )
    for name, value in (("look.zero", 0), ("look.one", 1)):
        model.graph.initializer.append(onnx.helper.make_tensor(name, onnx.TensorProto.INT64, [], [value]))
    end.name = "look.end"
    onnx.save(model, tmp_path / "looking.onnx")
    return tmp_path / "looking.onnx"


@pytest.mark.parametrize(
    "command",
    [
        ("scan", "--detectors", "none"),
        ("purify", "--detectors", "none", "-o", "out.onnx"),
        ("verify", "--triggers", "badnet"),
        ("inspect",),
    ],
)
def test_a_model_that_looks_who_is_asking_ends_the_run_with_a_finding(
    command, looking, wiper, child, few_digits, tmp_path
):
    clean = () if command == ("inspect",) else ("--clean", few_digits, "--mean", "0", "--std", "1")
    code, out, err = wiper(command[0], looking, *command[1:], *clean, "-f", "json", "-q")
    document = json.loads(out)
    jsonschema.validate(document, schema())
    (finding,) = document["findings"]
    assert (code, document["exit_code"], document["verdict"]) == (1, 1, "suspicious")
    assert (finding["rule"], finding["severity"]) == ("WIPER-A02", "high")
    assert "in onnxruntime one image at a time" in finding["message"] == document["sentence"] in err
    assert (document["clean"], document["detection"], document["verification"]) == (None, None, None)
    assert not list((tmp_path / "cwd").iterdir())


def test_a_bar_above_the_finding_leaves_no_verdict(looking, wiper, child):
    assert wiper("inspect", looking, "--fail-on", "critical", "-q")[0] == 3
