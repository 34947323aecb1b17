"""A folder of models: each is found by its content, hub folders count as one, nothing is left out without a word."""

import json
import os
import shlex
import shutil
from pathlib import Path

import pytest
import torch

from formats import Hostile, Unsupported
from wiper_cli.commands.fleet import walking
from wiper_cli.commands.fleet.walking import models_in
from wiper_cli.commands.shared.example_files import example_folder
from wiper_cli.reports.following import following
from wiper_cli.verdict import ExitCode, Problem
from wiper_cli.worker import gate

DIGITS = example_folder()


def sort(job, bounds):
    return gate.run(job)


def put(place, name="model.onnx"):
    place.parent.mkdir(parents=True, exist_ok=True)
    return Path(shutil.copy(DIGITS / name, place))


@pytest.fixture
def models(tmp_path):
    return tmp_path / "models"


def names(found):
    return [str(path.relative_to(found.folder)) for path in found.models]


def test_kinds_are_told_by_content_and_the_rest_is_said(models):
    for name, source in [
        ("b.weights", "model.safetensors"), ("a/net", "model.torchscript.pt"), ("a/z.onnx", "model.onnx"),
        ("a/mask.onnx.png", "mask.png"), ("README.md", "README.md"), (".git/model.onnx", "model.onnx"),
    ]:  # fmt: skip
        put(models / name, source)
    (models / "pointer").write_text("version https://git-lfs.github.com/spec/v1\n")
    found = models_in(models, sort)
    assert names(found) == ["a/net", "a/z.onnx", "b.weights"]
    assert found.skipped == {
        "is no model file known here": ["README.md"], "is a PNG image": ["a/mask.onnx.png"],
        "is a Git LFS pointer": ["pointer"], "is hidden": [".git"],
    }  # fmt: skip
    assert f"{models}: skipped a/mask.onnx.png: is a PNG image." in found.sentences()


def test_what_is_called_like_a_model_is_examined_and_not_passed_over(models, wiper, child):
    """A gate that skipped what it cannot read would be passed by renaming."""
    put(models / "good.onnx")
    (models / "pickle.pth").write_bytes(b"\x80\x04K\x01.")
    (models / "empty.safetensors").write_bytes(b"")
    code, out, err = wiper("inspect", models, "--static", "-f", "json")
    assert code == 2, err
    reports = json.loads(out)["reports"]
    assert [(Path(one["model"]["path"]).name, one["exit_code"]) for one in reports] == [
        ("empty.safetensors", 2), ("good.onnx", 0), ("pickle.pth", 3),
    ]  # fmt: skip
    assert "wiper convert" in reports[2]["sentence"]
    assert following(reports[2])[1] == shlex.join(
        ["wiper", "convert", str(models / "pickle.pth"), "-o", str(models / "pickle.safetensors")]
    )


def test_a_folder_of_a_hub_is_one_model(models):
    put(models / "resnet/model.safetensors", "model.safetensors")
    (models / "resnet/config.json").write_text("{}")
    put(models / "resnet/pytorch_model.bin", "model.torchscript.pt")
    put(models / "resnet/onnx/model.onnx")
    cache = models / "models--a--b"
    put(cache / "blobs/aa")
    for revision in ("one", "two"):
        (cache / "snapshots" / revision).mkdir(parents=True)
        (cache / "snapshots" / revision / "model.onnx").symlink_to("../../blobs/aa")
    found = models_in(models, sort)
    assert names(found) == [
        "models--a--b/snapshots/one/model.onnx", "models--a--b/snapshots/two/model.onnx",
        "resnet/model.safetensors",
    ]  # fmt: skip
    assert found.skipped == {
        "its folder counts as one model, resnet/model.safetensors": [
            "resnet/onnx",
            "resnet/pytorch_model.bin",
        ],
        "is what snapshots link to": ["models--a--b/blobs"],
    }
    assert models_in(models / "resnet", sort).models == [models / "resnet/model.safetensors"]


def test_nothing_lies_beside_the_model_of_a_hub_without_a_word(models):
    """At whatever height of a cache, or of a folder for ONNX files."""
    put(models / "a/snapshots/one/model.onnx")
    put(models / "a/refs/x")
    put(models / "b/onnx/model.onnx")
    (models / "b/config.json").write_text("{}")
    beside = [
        "a/blobs/evil.onnx", "a/evil.onnx", "a/snapshots/evil.ONNX", "a/snapshots/one/evil.pt", "a/sub/evil.onnx",
        "b/evil.onnx", "b/onnx/evil.onnx",
    ]  # fmt: skip
    for name in beside:
        put(models / name)
    found = models_in(models, sort)
    assert names(found) == ["a/snapshots/one/model.onnx", "b/onnx/model.onnx"]
    skipped = [name for names in found.skipped.values() for name in names]
    assert sorted(skipped) == sorted(["a/blobs", "a/refs", "a/sub", *(set(beside) - {beside[0], beside[4]})])


def test_whatever_is_called_somehow_beside_the_model_of_a_hub_is_said(models, wiper, child):
    """Parts that no index names, names without an end; what describes the model is not worth a word."""
    put(models / "model.safetensors", "model.safetensors")
    usual = [
        "config.json",
        "README.md",
        ".gitattributes",
        "LICENSE",
        "vocab.txt",
        "tokenizer.model",
        "TOKENIZER.JSON",
    ]
    evil = ["evil-00001-of-00001.bin", "evil-00001-of-00001.safetensors", "modeling.py", "training_args"]
    for name in usual + evil:
        (models / name).write_text("{}")
    reason = "its folder counts as one model, model.safetensors"
    assert models_in(models, sort).skipped == {reason: evil}
    code, _, err = wiper("inspect", models, "--static")
    assert code == 0
    assert f"skipped {', '.join(evil[:3])} and 1 more: {reason}." in err


def test_parts_of_the_model_of_a_hub_are_examined_with_it(models):
    put(models / "model-00001-of-00002.safetensors", "model.safetensors")
    shutil.copy(models / "model-00001-of-00002.safetensors", models / "odd.safetensors")
    shutil.copy(models / "model-00001-of-00002.safetensors", models / "model-00002-of-00002.safetensors")
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "odd.safetensors"}}
    (models / "model.safetensors.index.json").write_text(json.dumps(index))
    found = models_in(models, sort)
    assert names(found) == ["model.safetensors.index.json"]
    assert [*found.skipped.values()] == [["model-00002-of-00002.safetensors"]]


def test_no_link_leads_out_and_none_leads_round(models, tmp_path):
    put(models / "a.onnx")
    put(tmp_path / "outside.onnx")
    (models / "out.onnx").symlink_to("../outside.onnx")
    (models / "in.onnx").symlink_to("a.onnx")
    (models / "round").symlink_to(".")
    os.mkfifo(models / "pipe.onnx")
    found = models_in(models, sort)
    assert names(found) == ["a.onnx", "in.onnx"]
    assert found.skipped == {
        "is a link that leads out of the folder": ["out.onnx"], "is a link to a folder": ["round"],
        "is no regular file": ["pipe.onnx"],
    }  # fmt: skip


def test_a_path_that_cannot_be_looked_at_is_examined_and_ends_no_walk(models, wiper, child, monkeypatch):
    """Longer than the system takes; and what is named by the user, for a fleet, likewise."""
    put(models / "a.onnx")
    monkeypatch.chdir(models)
    for _ in range(20):
        Path("d" * 250).mkdir()
        os.chdir("d" * 250)
    monkeypatch.chdir(models)
    code, out, err = wiper("inspect", models, models / ("x" * 5000), "--static", "-f", "json")
    assert code == 2, err
    assert [one["exit_code"] for one in json.loads(out)["reports"]] == [0, 2, 2]
    assert out.count("File name too long") >= 2


def test_a_folder_of_a_hub_is_no_way_out_either(models, tmp_path):
    """Nor one round: snapshots that are a link, weights that are one."""
    put(tmp_path / "outside/model.onnx")
    put(models / "a.onnx")
    (models / "snapshots").symlink_to(".")
    (models / "cache").mkdir()
    (models / "cache/snapshots").symlink_to("../../outside")
    (models / "net").mkdir()
    (models / "net/config.json").write_text("{}")
    (models / "net/model.onnx").symlink_to("../../outside/model.onnx")
    found = models_in(models, sort)
    assert names(found) == ["a.onnx"]
    assert found.skipped == {
        "is a link to a folder": ["cache/snapshots", "snapshots"],
        "is a link that leads out of the folder": ["net/model.onnx"],
        "is no model file known here": ["net/config.json"],
    }  # fmt: skip
    assert models_in(models / "net", sort).models == [models / "net/model.onnx"]  # named by the user


def test_parts_of_a_model_are_not_models_but_no_model_hides_another(models):
    import numpy as np
    import onnx
    from onnx import helper, numpy_helper

    models.mkdir()
    weight = numpy_helper.from_array(np.ones((300, 300), np.float32), "w")
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", 1, [1, 300])],
        [helper.make_tensor_value_info("y", 1, [1, 300])],
        [weight],
    )
    onnx.save(
        helper.make_model(graph), models / "net.onnx", save_as_external_data=True, location="net.data.bin"
    )
    assert names(models_in(models, sort)) == ["net.onnx"]
    put(models / "net.data.bin")
    assert names(models_in(models, sort)) == ["net.data.bin", "net.onnx"]


def test_a_file_on_which_the_gate_dies_stops_no_other(models):
    for number in range(5):
        put(models / f"{number}")

    def dying(job, bounds):
        if "3" in job.files:
            raise Problem("It died.", ExitCode.NO_VERDICT)
        return gate.run(job)

    assert names(models_in(models, dying)) == ["0", "1", "2", "3", "4"]


def test_too_much_is_refused(models, monkeypatch):
    put(models / "a.onnx")
    put(models / "b.onnx")
    monkeypatch.setattr(walking, "MOST", 1)
    with pytest.raises(Problem, match="more than 1 entries; name a smaller folder"):
        models_in(models, sort)
    monkeypatch.setattr(walking, "MOST", 100)
    monkeypatch.setattr(walking, "DEEPEST", 1)
    put(models / "1/2/c.onnx")
    with pytest.raises(Problem, match="1 levels deep"):
        models_in(models, sort)


def test_a_folder_without_models_is_one_file_that_cannot_be_read(models, wiper, child):
    put(models / "README.md", "README.md")
    put(models.parent / "other.onnx")
    code, out, err = wiper("inspect", models, models.parent / "other.onnx", "--static", "-f", "json")
    assert code == 2
    assert [one["exit_code"] for one in json.loads(out)["reports"]] == [2, 0]
    assert "without a model file" in err
    assert "README.md: is no model file known here." in err


class Harm:
    def __reduce__(self):
        return os.system, ("true",)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_harmful_pickle_is_a_model_wherever_it_lies(models, zipped):
    """Whatever loads the folder may take it in place of the model beside it."""
    put(models / "hub/model.safetensors", "model.safetensors")
    (models / "hub/config.json").write_text("{}")
    for name, value in [("hub/pytorch_model.bin", Harm()), ("hub/other.bin", 1), ("loose", Harm())]:
        values = {"a": torch.zeros(2), "b": value}
        torch.save(values, models / name, _use_new_zipfile_serialization=zipped)
    found = models_in(models, sort)
    assert names(found) == ["hub/model.safetensors", "hub/pytorch_model.bin", "loose"]
    assert found.skipped == {"its folder counts as one model, hub/model.safetensors": ["hub/other.bin"]}
    for path in found.models[1:]:
        with pytest.raises(Hostile, match=r"names 'posix\.system'"):
            gate.run(gate.GateJob(model=path))
    with pytest.raises(Unsupported, match="wiper convert"):
        gate.run(gate.GateJob(model=models / "hub/other.bin"))
