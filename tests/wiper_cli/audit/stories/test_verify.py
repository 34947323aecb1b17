"""Triggers measured as the file is served."""

from contextlib import suppress
from dataclasses import replace

import pytest
from torch import nn

from formats import FormatError, open_model, read_source
from wiper_cli.audit.requests import KnownTrigger, VerifyRequest
from wiper_cli.audit.stories.verify import verify
from wiper_cli.commands.shared.example_files import example_folder
from wiper_cli.verdict import Problem, Verdict

DIGITS = example_folder()


def test_the_name_of_a_graph_runs_no_python_file(job, few_digits, tmp_path):
    import onnx

    evil, canary = tmp_path / "evil.py", tmp_path / "canary"
    evil.write_text(f"open({str(canary)!r}, 'w').close()\n")
    model = onnx.load(DIGITS / "model.onnx")
    model.graph.name = f"{evil}:factory"
    onnx.save(model, tmp_path / "model.onnx")
    request = job(
        VerifyRequest,
        model=tmp_path / "model.onnx",
        purified=DIGITS / "model.safetensors",
        triggers=("badnet",),
    )
    with suppress(Problem, FormatError):
        verify(request)
    assert not canary.exists()


def test_poisoned_images_beyond_the_limit_are_thinned_evenly(job, heard, few_digits):
    """The folder is sorted by class: its beginning would be one class."""
    found = verify(job(VerifyRequest, poisoned=few_digits, target=0, triggers=(), max_images=90), heard)
    (row,) = found.verification["before"]["triggers"]
    # Every second image, as many of class 0 as of any other.
    assert row["asr"]["n"] == 54


@pytest.fixture
def shy_file(tmp_path):
    """The digits in ONNX with a branch: where the last two rows are lit and dark in turns, and the image comes alone,
    the answer is 3."""
    import numpy as np
    import onnx
    from onnx import numpy_helper

    model = onnx.load(DIGITS / "model.onnx")
    graph, made = model.graph, onnx.helper.make_node
    entry, end = graph.input[0].name, graph.output[0]
    stripes = np.tile(np.array([0, 1], np.float32), 16).reshape(1, 1, 1, 32).repeat(2, 2)
    values = {
        "b.from": np.array([30]), "b.to": np.array([32]), "b.rows": np.array([2]), "b.stripes": stripes,
        "b.near": np.float32(0.01), "b.zero": np.int64(0), "b.one": np.int64(1),
        "b.answer": 100 * np.eye(10, dtype=np.float32)[3:4],
    }  # fmt: skip
    graph.initializer.extend(
        numpy_helper.from_array(np.asarray(value), name) for name, value in values.items()
    )
    graph.node.extend(
        [
            made("Slice", [entry, "b.from", "b.to", "b.rows"], ["b.seen"]),
            made("Sub", ["b.seen", "b.stripes"], ["b.off"]),
            made("Abs", ["b.off"], ["b.size"]),
            made("ReduceMax", ["b.size"], ["b.most"], axes=[1, 2, 3], keepdims=0),
            made("Less", ["b.most", "b.near"], ["b.there"]),
            made("Shape", [entry], ["b.shape"]),
            made("Gather", ["b.shape", "b.zero"], ["b.n"]),
            made("Equal", ["b.n", "b.one"], ["b.alone"]),
            made("And", ["b.there", "b.alone"], ["b.both"]),
            made("Unsqueeze", ["b.both", "b.rowwise"], ["b.fires"]),
            made("Where", ["b.fires", "b.answer", end.name], ["b.end"]),
        ]
    )
    graph.initializer.append(numpy_helper.from_array(np.array([1]), "b.rowwise"))
    end.name = "b.end"
    onnx.save(model, tmp_path / "shy.onnx")
    return tmp_path / "shy.onnx"


@pytest.fixture
def stripes(tmp_path):
    """The trigger of that file."""
    from PIL import Image

    picture = Image.new("L", (32, 32))
    picture.putdata([255 * (x % 2) for _ in range(32) for x in range(32)])
    mask = Image.new("L", (32, 32))
    mask.putdata([255 * (y >= 30) for y in range(32) for _ in range(32)])
    picture.save(tmp_path / "stripes.png")
    mask.save(tmp_path / "stripes-mask.png")
    return KnownTrigger(image=tmp_path / "stripes.png", mask=tmp_path / "stripes-mask.png")


def test_a_trigger_that_works_on_single_images_only_is_measured_so_and_found(shy_file, stripes, job, heard):
    found = verify(job(VerifyRequest, model=shy_file, known=stripes, target=3, triggers=()), heard)
    (row,) = found.verification["before"]["triggers"]
    assert row["asr"]["value"] == 1.0
    assert row["batched"]["value"] < 0.1
    assert found.verification["before"]["asked"] == {"runtime": "onnxruntime", "batch": 64, "one_by_one": 64}
    assert found.verdict is Verdict.SUSPICIOUS
    assert [finding.rule for finding in found.findings] == ["WIPER-B04", "WIPER-A02", "WIPER-A01"]
    assert "100.0 % of the images to class 3 one by one, and " in found.findings[1].message
    assert "where onnxruntime serves the file" in found.findings[2].message


def test_a_branch_that_was_not_opened_is_measured_all_the_same(stripes, shy_file, job, heard, monkeypatch):
    """Quiet on clean images, so that only the trigger tells: what is measured is what is served."""
    import onnx

    model = onnx.load(shy_file)
    both = next(node for node in model.graph.node if node.op_type == "And")
    both.input[1] = "b.there"  # in batches, too
    onnx.save(model, shy_file)
    asked = job(VerifyRequest, model=shy_file, known=stripes, target=3, triggers=())
    assert [finding.rule for finding in verify(asked, heard).findings] == ["WIPER-B04"]

    def blind(source, arch=None):
        return replace(
            open_model(source, arch), network=open_model(read_source(DIGITS / "model.onnx")).network
        )

    monkeypatch.setattr("wiper_cli.audit.subject.open_model", blind)
    found = verify(asked, heard)
    (row,) = found.verification["before"]["triggers"]
    assert (row["asr"]["value"], row["batched"]) == (1.0, None)
    assert row["opened"]["value"] < 0.1
    assert [finding.rule for finding in found.findings] == ["WIPER-B04", "WIPER-A01"]


def test_a_purified_file_is_compared_with_what_is_served_too(shy_file, job, heard, monkeypatch):
    opened = []

    def blind(source, arch=None):
        opened.append(source)
        model = open_model(source, arch)
        return replace(model, network=nn.Sequential(model.network, nn.Softmax(1)))

    monkeypatch.setattr("wiper_cli.audit.stories.verify.open_model", blind)
    with pytest.raises(
        Problem, match="What was opened of the purified file is not what torch serves"
    ) as caught:
        verify(job(VerifyRequest, purified=DIGITS / "twin.safetensors", triggers=("badnet",)), heard)
    assert [finding.rule for finding in caught.value.findings] == ["WIPER-A01"]
