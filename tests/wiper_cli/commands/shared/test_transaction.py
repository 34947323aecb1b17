from __future__ import annotations

import hashlib
from contextlib import nullcontext

import pytest
from refusals import refused

from formats import Source
from wiper_cli.commands.shared.transaction import check_companions, check_destination, commit, staged
from wiper_cli.verdict import ExitCode, Problem


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def source():
    return Source("m.onnx", b"model", {"w.data": b"old", "other.data": b"same"})


def test_a_committed_file_stands_with_all_it_names(tmp_path, source):
    with staged(tmp_path / "out.onnx", source, {"": b"MODEL", "w.data": b"new"}, force=False) as stage:
        assert (stage.model.read_bytes(), stage.sha256) == (b"MODEL", hashlib.sha256(b"MODEL").hexdigest())
        assert not (tmp_path / "out.onnx").exists()
        commit(stage)
    assert names(tmp_path) == ["other.data", "out.onnx", "w.data"]
    assert ((tmp_path / "w.data").read_bytes(), (tmp_path / "other.data").read_bytes()) == (b"new", b"same")


@pytest.mark.parametrize(
    "fails", [nullcontext(), pytest.raises(RuntimeError)], ids=["no commit", "a failure"]
)
def test_without_commit_nothing_remains(tmp_path, source, fails):
    with fails as caught, staged(tmp_path / "out.onnx", source, {"": b"MODEL"}, force=False):
        if caught is not None:
            raise RuntimeError
    assert names(tmp_path) == []


def test_external_data_of_another_model_is_not_overwritten(tmp_path, source):
    (tmp_path / "w.data").write_bytes(b"somebody's")
    with (
        pytest.raises(Problem, match="choose another folder"),
        staged(tmp_path / "out.onnx", source, {"": b"MODEL"}, force=False),
    ):
        pass
    assert (tmp_path / "w.data").read_bytes() == b"somebody's"


def test_a_full_disk_leaves_nothing_and_says_so(tmp_path, source, monkeypatch):
    def full(self, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_bytes", full)
    with (
        pytest.raises(Problem, match="No space left on device; nothing was left behind"),
        staged(tmp_path / "out.onnx", source, {"": b"MODEL"}, force=False),
    ):
        pass
    assert names(tmp_path) == []


def test_destinations_that_are_refused(tmp_path):
    model = tmp_path / "model.onnx"
    model.write_bytes(b"x")
    link = tmp_path / "link.onnx"
    link.symlink_to(model)
    other = tmp_path / "other.onnx"
    other.write_bytes(b"y")
    for output, force, sentence in [
        (model, True, "input file itself"),
        (link, True, "input file itself"),
        (other, False, "exists already; --force replaces it"),
        (tmp_path, False, "is a folder"),
        (tmp_path / "no" / "out.onnx", False, "does not exist"),
    ]:
        with refused(sentence, ExitCode.USAGE):
            check_destination(output, model, force)
    check_destination(other, model, force=True)
    check_destination(tmp_path / "new.onnx", model, force=False)


@pytest.mark.root
def test_a_folder_without_permission_is_refused(tmp_path):
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    with pytest.raises(Problem, match="Nothing can be written"):
        check_destination(closed / "out.onnx", tmp_path / "m.onnx", force=False)


def test_external_files_of_the_original_are_never_replaced(tmp_path, source):
    original = tmp_path / "m.onnx"
    (tmp_path / "w.data").write_bytes(b"old")
    (tmp_path / "elsewhere").mkdir()
    for force in (False, True):
        with pytest.raises(Problem, match="belongs to the original"):
            check_companions(tmp_path / "out.onnx", source, force, original)
        check_companions(tmp_path / "elsewhere" / "out.onnx", source, force, original)


def test_the_output_is_none_of_the_external_files(tmp_path, source):
    with pytest.raises(Problem, match="keeps tensors in"):
        check_companions(tmp_path / "w.data", source, force=True)


def test_a_file_that_appeared_meanwhile_is_kept(tmp_path, source):
    out = tmp_path / "out.onnx"
    with staged(out, source, {"": b"MODEL"}, force=False) as stage:
        out.write_bytes(b"another run's")
        with pytest.raises(Problem, match="meanwhile"):
            commit(stage)
    assert (out.read_bytes(), names(tmp_path)) == (b"another run's", ["out.onnx"])
