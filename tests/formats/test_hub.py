"""Folders as hubs lay them out."""

from pathlib import Path

import pytest

from formats import Hostile, Unreadable, Unsupported
from formats.hub import model_in
from formats.identify import read_external, read_model


def put(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"content of " + path.name.encode())


def test_the_usual_name_goes_before_any_other(tmp_path: Path):
    put(tmp_path / "onnx/model.onnx", tmp_path / "pytorch_model.bin", tmp_path / "other.onnx")
    assert model_in(tmp_path) == tmp_path / "onnx/model.onnx"
    put(tmp_path / "model.safetensors")
    assert model_in(tmp_path) == tmp_path / "model.safetensors"


def test_one_model_of_any_name_is_the_one(tmp_path: Path):
    put(tmp_path / "resnet.onnx", tmp_path / "config.json", tmp_path / "resnet.onnx.data")
    assert model_in(tmp_path) == tmp_path / "resnet.onnx"
    put(tmp_path / "second.pt")
    with pytest.raises(Unsupported, match=r"several models \(resnet.onnx, second.pt\)"):
        model_in(tmp_path)


def test_a_folder_without_a_model_says_so(tmp_path: Path):
    put(tmp_path / "README.md")
    with pytest.raises(Unreadable, match="without a model file"):
        read_model(tmp_path)


def cache(root: Path, *revisions: str) -> Path:
    """As huggingface_hub keeps a repository."""
    put(root / "blobs/aa11", root / "blobs/bb22", root / "blobs/cc33")
    for revision in revisions:
        place = root / "snapshots" / revision
        (place / "onnx").mkdir(parents=True)
        (place / "config.json").symlink_to("../../blobs/cc33")
        (place / "onnx/model.onnx").symlink_to("../../../blobs/aa11")
        (place / "onnx/model.onnx_data").symlink_to("../../../blobs/bb22")
    return root


def test_links_of_a_cache_to_its_own_contents_are_followed(tmp_path: Path):
    model = model_in(cache(tmp_path / "models--a--b", "abc"))
    assert model.relative_to(tmp_path) == Path("models--a--b/snapshots/abc/onnx/model.onnx")
    source = read_model(model)
    assert source.data == b"content of aa11"
    assert source.sidecars == {"config.json": b"content of cc33"}
    assert read_external(model, ["model.onnx_data"]) == {"model.onnx_data": b"content of bb22"}
    by_link = tmp_path / "link"
    by_link.symlink_to(model.parent)
    assert read_external(by_link / "model.onnx", ["model.onnx_data"]) == {
        "model.onnx_data": b"content of bb22"
    }


@pytest.mark.parametrize(
    "target",
    [
        "/etc/passwd",
        "../../../../secret",
        "../../../blobs/../../secret",
        "../../../refs/x",
        "../../../blobs/link",
        "config",
    ],
)
def test_links_that_leave_the_contents_are_findings(tmp_path: Path, target: str):
    root = cache(tmp_path / "models--a--b", "abc")
    put(tmp_path / "secret", root / "refs/x", root / "snapshots/abc/onnx/config")
    (root / "blobs/link").symlink_to(tmp_path / "secret")
    link = root / "snapshots/abc/onnx/model.onnx_data"
    link.unlink()
    link.symlink_to(target)
    with pytest.raises(Hostile) as refusal:
        read_external(model_in(root), ["model.onnx_data"])
    assert refusal.value.rule == "WIPER-FILE-002"


def test_contents_that_are_a_link_are_none(tmp_path: Path):
    root = cache(tmp_path / "models--a--b", "abc")
    (root / "blobs").rename(tmp_path / "private")
    (root / "blobs").symlink_to(tmp_path / "private")
    model = root / "snapshots/abc/onnx/model.onnx"
    model.unlink()
    put(model)
    assert read_model(model).sidecars == {}
    with pytest.raises(Hostile) as refusal:
        read_external(model, ["model.onnx_data"])
    assert refusal.value.rule == "WIPER-FILE-002"


def test_a_link_outside_a_cache_stays_a_finding(tmp_path: Path):
    put(tmp_path / "blobs/bb22", tmp_path / "a/b/model.onnx")
    (tmp_path / "a/b/data").symlink_to("../../blobs/bb22")
    with pytest.raises(Hostile):
        read_external(tmp_path / "a/b/model.onnx", ["data"])


def test_of_several_snapshots_the_main_branch_is_taken(tmp_path: Path):
    root = cache(tmp_path / "models--a--b", "abc", "def")
    with pytest.raises(Unsupported, match="2 snapshots"):
        model_in(root)
    (root / "refs").mkdir()
    (root / "refs/main").write_text("def\n")
    assert model_in(root).parts[-3] == "def"
    (root / "refs/main").write_text("../../elsewhere")
    with pytest.raises(Unsupported, match="2 snapshots"):
        model_in(root)


def test_a_branch_s_file_is_not_read_to_its_end(tmp_path: Path):
    """It is as the model's author left it: here 4 TiB, all hole."""
    root = cache(tmp_path, "first", "second")
    put(root / "refs/main")
    with (root / "refs/main").open("r+b") as file:
        file.truncate(1 << 42)
    with pytest.raises(Unsupported, match="2 snapshots"):
        model_in(root)
