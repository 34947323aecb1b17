"""Purifying as a transaction: a verified file, or nothing."""

import dataclasses
import hashlib
import json
import stat

import jsonschema
import onnx
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from formats import open_model, read_source
from wiper_cli.audit import pipeline, results
from wiper_cli.audit.answers import CheckAnswer
from wiper_cli.audit.requests import CheckRequest, PurifyRequest
from wiper_cli.commands.shared.example_files import example_folder
from wiper_cli.reports.schema import schema
from wiper_cli.verdict import ExitCode, Problem, Verdict

DIGITS = example_folder()
HEAD = ("--method", "fine-tuning", "--train", "head", "--epochs", "1", "--detectors", "none")


@pytest.fixture
def purify(wiper, child, few_digits, tmp_path):
    """``purify(*arguments, name=…)`` → (exit code, JSON result, stderr); the output is ``out`` in ``tmp_path``."""

    def run(*arguments, name="model.onnx"):
        code, out, err = wiper(
            "purify", DIGITS / name, "--clean", few_digits, "-o", tmp_path / "out", *HEAD, "-q", "-f", "json",
            *arguments,
        )  # fmt: skip
        document = json.loads(out)
        jsonschema.validate(document, schema())
        assert document["exit_code"] == code
        return code, document, err

    return run


def left(tmp_path):
    return sorted(path.name for path in tmp_path.iterdir() if path.name != "cwd")


def test_a_checked_file_is_written(purify, child, tmp_path):
    code, document, _ = purify("--accept-unverified")
    assert code == 0, document["sentence"]
    assert [type(request) for request in child.requests] == [PurifyRequest, CheckRequest]
    output = document["purification"]["output"]
    assert output["sha256"] == hashlib.sha256((tmp_path / "out").read_bytes()).hexdigest()
    assert output["sha256"] != document["model"]["sha256"]
    assert (output["size"], output["kind"]) == ((tmp_path / "out").stat().st_size, "onnx")
    assert left(tmp_path) == ["out"]


def test_data_outside_the_model_gets_a_name_of_ours_and_no_more_rights(wiper, child, few_digits, tmp_path):
    """Also beside the original, whose own data stay."""
    model = onnx.load(DIGITS / "model.onnx")
    onnx.save_model(
        model, tmp_path / "m.onnx", save_as_external_data=True, location="w.bin", size_threshold=0
    )
    (tmp_path / "w.bin").chmod(0o600)
    before = (tmp_path / "w.bin").read_bytes()
    code, out, err = wiper(
        "purify", tmp_path / "m.onnx", "--clean", few_digits, "-o", tmp_path / "out.onnx", *HEAD, "-q", "-f", "json",
        "--accept-unverified",
    )  # fmt: skip
    assert code == 0, err
    output = json.loads(out)["purification"]["output"]
    (data,) = output["data"]
    assert left(tmp_path) == ["m.onnx", "out.onnx", data, "w.bin"]
    assert [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("out.onnx", data)] == [0o600] * 2
    assert output["size"] == (tmp_path / "out.onnx").stat().st_size + (tmp_path / data).stat().st_size
    assert (tmp_path / "w.bin").read_bytes() == before != (tmp_path / data).read_bytes()
    again = wiper("inspect", tmp_path / "out.onnx", "-q", "-f", "json")
    assert (again[0], json.loads(again[1])["model"]["opened"]) == (0, "full")


@pytest.mark.parametrize(
    ("difference", "words"), [(0.25, "a largest difference of 0.25"), (None, "no usable logits")]
)
def test_other_logits_after_saving_leave_nothing(difference, words, purify, child, tmp_path):
    child.answers[CheckRequest] = CheckAnswer(largest_logit_difference=difference, agrees=False)
    code, document, err = purify("--accept-unverified")
    assert code in (ExitCode.FINDING, ExitCode.NO_VERDICT)
    assert left(tmp_path) == []
    done = document["purification"]
    assert not done["accepted"]
    assert done["output"] is None
    assert done["reason"] == document["sentence"]
    assert words in document["sentence"]
    assert "it was deleted" in document["sentence"]
    assert document["sentence"] in err


def test_other_logits_keep_the_file_that_was_there(purify, child, tmp_path):
    (tmp_path / "out").write_bytes(b"precious")
    child.answers[CheckRequest] = CheckAnswer(largest_logit_difference=0.25, agrees=False)
    purify("--accept-unverified", "--force")
    assert ((tmp_path / "out").read_bytes(), left(tmp_path)) == (b"precious", ["out"])


def test_a_perturbed_expectation_is_noticed(purify, monkeypatch, tmp_path):
    """The real comparison, after a file that differs from what was verified."""
    real = results.expectation
    twin = open_model(read_source(DIGITS / "twin.safetensors"))
    monkeypatch.setattr(results, "expectation", lambda edited, images: real(edited.with_model(twin), images))
    code, document, _ = purify("--accept-unverified", name="model.safetensors")
    assert code != 0
    assert "gave other logits in its own runtime" in document["sentence"]
    assert left(tmp_path) == []


def test_a_check_that_fails_leaves_nothing(purify, child, tmp_path):
    child.answers[CheckRequest] = Problem("The worker process was killed by signal 9.", ExitCode.NO_VERDICT)
    code, document, _ = purify("--accept-unverified")
    assert code == 3
    assert "killed by signal 9" in document["sentence"]
    assert left(tmp_path) == []
    assert not document["purification"]["accepted"]


def test_what_was_not_accepted_is_not_checked(purify, child, tmp_path):
    code, document, _ = purify()
    assert (code, [type(request) for request in child.requests]) == (3, [PurifyRequest])
    assert "Nothing was written." in document["sentence"]
    assert left(tmp_path) == []
    assert "WIPER-P01" in [finding["rule"] for finding in document["findings"]]


def test_rounds_are_as_many_as_asked(purify, child):
    _, document, _ = purify("--max-rounds", "2")
    assert child.requests[-1].max_rounds == 2
    assert len(document["purification"]["rounds"]) == 1  # the method reads no finds


def test_exit_zero_spares_a_refusal_that_is_a_finding(purify, child, monkeypatch, tmp_path):
    real = pipeline.run
    monkeypatch.setattr(
        pipeline, "run", lambda *asked: dataclasses.replace(real(*asked), verdict=Verdict.SUSPICIOUS)
    )
    assert (purify()[0], purify("--exit-zero")[0], left(tmp_path)) == (1, 0, [])


def test_shards_become_shards_under_an_index(wiper, child, few_digits, tmp_path):
    tensors = load_file(DIGITS / "model.safetensors")
    with safe_open(DIGITS / "model.safetensors", "pt") as file:
        metadata = file.metadata()
    names, index = sorted(tensors), {}
    for shard, part in {"a.safetensors": names[::2], "b.safetensors": names[1::2]}.items():
        save_file({name: tensors[name] for name in part}, tmp_path / shard, metadata)
        index.update(dict.fromkeys(part, shard))
    (tmp_path / "m.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    arguments = (
        "purify",
        tmp_path,
        "--clean",
        few_digits,
        *HEAD,
        "-q",
        "-f",
        "json",
        "--accept-unverified",
        "-o",
    )
    code, out, err = wiper(*arguments, tmp_path / "out.safetensors")
    assert code == 2
    assert (
        "index of 2 shards, and so is what is written: name it like out.safetensors.index.json" in out + err
    )
    code, out, err = wiper(*arguments, tmp_path / "out.safetensors.index.json")
    assert code == 0, err
    output = json.loads(out)["purification"]["output"]
    written = json.loads((tmp_path / "out.safetensors.index.json").read_text())["weight_map"]
    assert {*written} == {*names}
    assert {*written.values()} == {*output["data"]}
    again = {name: load_file(tmp_path / file)[name] for name, file in written.items()}
    assert 0 < sum(not torch.equal(again[name], tensors[name]) for name in names) <= 2
