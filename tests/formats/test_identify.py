"""Every kind of file that is often taken for a model is refused with the next step in the sentence."""

import gzip
import io
import os
import random
import tarfile
import zipfile

import pytest
import torch
from safetensors.torch import save

from formats import FormatError, Hostile, Source, Unreadable, Unsupported, identify, inspect, read_source

STATE = {"fc.weight": torch.zeros(3, 2), "fc.bias": torch.zeros(3)}


def zipped(*names):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name in names:
            archive.writestr(name, b"x")
    return file.getvalue()


def pickled(zip_based):
    file = io.BytesIO()
    torch.save({"state_dict": STATE}, file, _use_new_zipfile_serialization=zip_based)
    return file.getvalue()


#: A ModelProto of ir_version 8 with a graph that holds only a name.
ONNX = b"\x08\x08\x12\x07pytorch\x3a\x06\x12\x04main"

REFUSED = {
    "empty": (b"", Unreadable, "is empty"),
    "LFS pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha", Unreadable, "git lfs pull"),
    "HTML": (b"\n<!DOCTYPE html><html>", Unreadable, "web page"),
    "random bytes": (random.Random(3).randbytes(5000), Unreadable, "neither safetensors"),
    "text": (b"hello, this is a readme\n", Unreadable, "neither safetensors"),
    "new pickle": (pickled(True), Unsupported, "wiper convert takes its tensors out"),
    "legacy pickle": (pickled(False), Unsupported, "wiper convert takes its tensors out"),
    "pt2": (zipped("m/version", "m/archive_format", "m/models/model.json"), Unsupported, "pt2"),
    "old pt2": (zipped("version", "serialized_exported_program.json"), Unsupported, "pt2"),
    "Keras": (zipped("config.json", "model.weights.h5"), Unsupported, "Keras"),
    "other zip": (zipped("a.txt"), Unsupported, "without a TorchScript model"),
    "ort": (b"\x20\0\0\0ORTM" + b"\0" * 40, Unsupported, ".ort"),
    "tar": (tarfile.TarInfo("model").tobuf() + b"\0" * 1024, Unsupported, "tar archive"),
    "HDF5": (b"\x89HDF\r\n\x1a\n" + b"\0" * 40, Unsupported, "HDF5"),
    "gzip": (gzip.compress(b"model"), Unsupported, "gzip"),
    "PNG": (b"\x89PNG\r\n\x1a\n", Unsupported, "PNG"),
    "truncated zip": (zipped("m/data.pkl", "m/constants.pkl")[:60], Unreadable, "truncated"),
    "ONNX without a graph": (ONNX[:11], Unreadable, "neither safetensors"),
}  # fmt: skip


@pytest.mark.parametrize(("data", "error", "words"), REFUSED.values(), ids=REFUSED)
def test_refusals(data, error, words):
    with pytest.raises(error, match=words) as refusal:
        identify(data, "model.onnx")
    assert "model.onnx" in str(refusal.value)


def test_kinds_by_content_whatever_the_name():
    assert identify(save(STATE), "model.onnx") == "safetensors"
    assert identify(ONNX, "model.pt") == "onnx"
    assert identify(zipped("m/data.pkl", "m/constants.pkl", "m/code/a.py"), "model.bin") == "torchscript"


@pytest.mark.parametrize("length", [0x0280, 0x8B1F, 0x4A4B50, 0x685A42])
def test_a_header_length_may_look_like_other_magic_bytes(length):
    text = b"{" + b" " * (length - 2) + b"}"
    assert identify(length.to_bytes(8, "little") + text, "m") == "safetensors"


def test_damaged_files_raise_nothing_but_refusals():
    chance = random.Random(0)
    whole = [save(STATE, {"format": "pt"}), ONNX, zipped("m/data.pkl", "m/constants.pkl"), pickled(True)]
    outcomes = set()
    for _ in range(2000):
        data = bytearray(chance.choice(whole))
        for _ in range(chance.randint(1, 4)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        data = bytes(data[: chance.choice([len(data), chance.randrange(len(data) + 1)])])
        try:
            kind = identify(data, "m")
            if kind == "safetensors":
                inspect(Source("m", data))
            outcomes.add(kind)
        except FormatError as refusal:
            outcomes.add(type(refusal).__name__)
    assert outcomes >= {"safetensors", "onnx", "torchscript", "Unreadable", "Unsupported", "Hostile"}


def test_missing_directory_and_device(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for name, words in {"nothing": "does not exist", "": "directory", "pipe": "no regular file"}.items():
        with pytest.raises(Unreadable, match=words):
            read_source(tmp_path / name)


def test_unreadable(tmp_path, monkeypatch):
    path = tmp_path / "m"
    path.write_bytes(save(STATE))

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(Unreadable, match="Permission denied"):
        read_source(path)


def test_sidecars_are_read_and_bounded(tmp_path):
    (tmp_path / "net.safetensors").write_bytes(save(STATE))
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "net.json").write_text('{"arch": "x"}')
    (tmp_path / "preprocessor_config.json").write_bytes(b" " * ((1 << 20) + 1))
    source = read_source(tmp_path / "net.safetensors")
    assert source.sidecars == {"config.json": b"{}", "net.json": b'{"arch": "x"}'}
    assert source.name == "net.safetensors"
    assert len(source.sha256) == 64


def test_a_description_that_is_a_link_is_passed_over(tmp_path):
    """A report shows its words, and it may lead to a file of the user's."""
    (tmp_path / "secret").write_text("a\nb")
    (tmp_path / "model").mkdir()
    (tmp_path / "model/net.safetensors").write_bytes(save(STATE))
    for name in ("labels.txt", "config.json", "net.json"):
        (tmp_path / "model" / name).symlink_to("../secret")
    assert read_source(tmp_path / "model/net.safetensors").sidecars == {}


@pytest.fixture
def external(tmp_path, monkeypatch):
    """Reads a model whose ONNX reader names the given location."""
    (tmp_path / "m.onnx").write_bytes(ONNX)

    def read(location):
        monkeypatch.setattr("formats.onnx.manifest.external_locations", lambda data: [location])
        return read_source(tmp_path / "m.onnx")

    return read


def test_external_data_beside_the_model(external, tmp_path):
    (tmp_path / "w.data").write_bytes(b"1234")
    assert external("w.data").files == {"w.data": b"1234"}
    with pytest.raises(Unreadable, match="missing"):
        external("v.data")


ELSEWHERE = ["../w", "/etc/passwd", "a/b", "a\\b", "", "..", "w\0", "m.onnx", "C:w"]


@pytest.mark.parametrize("location", ELSEWHERE)
def test_external_data_with_a_path_is_hostile(external, location):
    with pytest.raises(Hostile) as refusal:
        external(location)
    assert refusal.value.rule == "WIPER-FILE-001"


def test_external_links_are_hostile(external, tmp_path):
    (tmp_path / "secret").write_bytes(b"1234")
    (tmp_path / "soft.data").symlink_to(tmp_path / "secret")
    os.link(tmp_path / "secret", tmp_path / "hard.data")
    (tmp_path / "folder.data").mkdir()
    os.mkfifo(tmp_path / "pipe.data")
    for location, rule in {
        "soft.data": "002",
        "hard.data": "003",
        "folder.data": "003",
        "pipe.data": "003",
    }.items():
        with pytest.raises(Hostile) as refusal:
            external(location)
        assert refusal.value.rule == f"WIPER-FILE-{rule}"


def test_external_data_beyond_what_one_message_holds(external, tmp_path):
    with (tmp_path / "w.data").open("wb") as file:
        file.truncate(3 << 30)  # no such file is written: it is all hole
    with pytest.raises(Unsupported, match="2 GiB"):
        external("w.data")


def test_the_folder_of_a_model_may_be_reached_by_a_link(tmp_path, monkeypatch):
    """And is opened once: what is beside the model is what is read."""
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "m.onnx").write_bytes(ONNX)
    (tmp_path / "real" / "w.data").write_bytes(b"1234")
    (tmp_path / "link").symlink_to("real")
    monkeypatch.setattr("formats.onnx.manifest.external_locations", lambda data: ["w.data"])
    assert read_source(tmp_path / "link" / "m.onnx").files == {"w.data": b"1234"}
    monkeypatch.chdir(tmp_path / "real")
    assert read_source("m.onnx").files == {"w.data": b"1234"}
