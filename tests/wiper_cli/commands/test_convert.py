"""``wiper convert``, as a user meets it."""

import os
import shelve
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from wiper_cli.commands.shared.example_files import example_folder


class Harm:
    def __reduce__(self):
        return os.system, ("touch harmed",)


@pytest.fixture
def checkpoint(tmp_path):
    """A checkpoint of the example's network beside other things."""
    state = load_file(example_folder() / "model.safetensors")
    path = tmp_path / "best model.pth"
    torch.save({"state_dict": state, "epoch": 3}, path)
    return path


def test_the_written_file_opens(wiper, checkpoint, tmp_path):
    out = tmp_path / "model.safetensors"
    code, said, err = wiper("convert", checkpoint, "-o", out)
    assert (code, err) == (0, "")
    assert "stood under 'state_dict' of the checkpoint. Left out: epoch." in " ".join(said.split())
    wanted = torch.load(checkpoint)["state_dict"]
    found = load_file(out)
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    assert wiper("inspect", "--static", out)[0] == 0
    code, _, err = wiper("convert", checkpoint, "-o", out)
    assert (code, "--force replaces it" in err) == (2, True)


def test_a_file_that_would_do_harm_is_a_finding(wiper, tmp_path, monkeypatch):
    folder = tmp_path / "folder"
    folder.mkdir()
    monkeypatch.chdir(folder)
    torch.save({"state_dict": {"x": torch.zeros(3)}, "y": Harm()}, "bad.pth")
    code, out, err = wiper("convert", "bad.pth", "-o", "out.safetensors")
    assert (code, out) == (1, "")
    assert "names 'posix.system'" in err
    assert [path.name for path in folder.iterdir()] == ["bad.pth"]


@pytest.mark.skipif(os.name != "posix", reason="no limits on files")
@pytest.mark.parametrize(
    ("share", "words"), [(0.5, "No room for a private copy"), (1.5, "nothing was left behind")]
)
def test_a_disk_that_is_full_gets_nothing(share, words, tmp_path):
    """Before and after the checkpoint was read: what is written is twice as large, as one tensor has two names."""
    import resource

    value = torch.zeros(100_000)
    path, temporary, there = tmp_path / "tied.pth", tmp_path / "tmp", tmp_path / "there"
    torch.save({"a": value, "b": value}, path)
    temporary.mkdir()
    there.mkdir()
    limit = int(share * path.stat().st_size)
    done = subprocess.run(
        [sys.executable, "-m", "wiper_cli.main", "convert", path, "-o", there / "out.safetensors"],
        env={**os.environ, "TMPDIR": str(temporary)}, capture_output=True, text=True, check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )  # fmt: skip
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1), done.stderr
    assert words in done.stderr
    assert [*temporary.iterdir(), *there.iterdir()] == []


def test_what_loading_would_have_called_is_said(wiper, tmp_path):
    torch.save(torch.nn.Linear(3, 2), tmp_path / "whole.pth")
    code, out, err = wiper("convert", tmp_path / "whole.pth", "-o", tmp_path / "out.safetensors")
    assert code == 0
    assert "2 tensors" in out
    assert "torch.nn.modules.linear.Linear" in err


class Saved:
    def __reduce__(self):
        return torch.save, ("x", "/tmp/x")


@pytest.mark.parametrize("quiet", [(), ("-q",)])
def test_a_call_of_what_is_not_known_to_be_harmless_is_a_finding(quiet, wiper, tmp_path):
    torch.save({"state_dict": {"x": torch.zeros(3)}, "y": Saved()}, tmp_path / "odd.pth")
    code, _, err = wiper("convert", tmp_path / "odd.pth", "-o", tmp_path / "out.safetensors", *quiet)
    assert code == 1
    assert (
        "WIPER-PKL-001: torch.load(weights_only=False) would call torch.serialization.save, not known" in err
    )
    assert load_file(tmp_path / "out.safetensors").keys() == {"x"}


@pytest.mark.parametrize("quiet", [(), ("-q",)])
def test_a_module_that_is_only_named_is_a_finding(quiet, wiper, tmp_path):
    def network():
        net = torch.nn.TransformerEncoderLayer(4, 2, 4)
        net.odd = shelve.open
        return net

    torch.save(network(), tmp_path / "odd.pth")
    code, _, err = wiper("convert", tmp_path / "odd.pth", "-o", tmp_path / "out.safetensors", *quiet)
    assert code == 1
    assert "WIPER-PKL-001: torch.load(weights_only=False) would import shelve.open, not known to be" in err
    assert ("Not imported, though torch.load would" in err) is not bool(quiet)
    assert "torch.nn.functional.relu" in err or quiet


@pytest.mark.parametrize(
    ("content", "code", "words"),
    [(b"", 3, "no checkpoint"), (b"PK\x03\x04rubbish", 2, "."), (b"\x80\x02rubbish", 2, "damaged")],
)
def test_bad_input(wiper, tmp_path, content, code, words):
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "x.pth").write_bytes(content)
    exit_code, out, err = wiper("convert", folder / "x.pth", "-o", folder / "out.safetensors")
    assert (exit_code, out) == (code, "")
    assert words in err
    assert [path.name for path in folder.iterdir()] == ["x.pth"]


def test_a_scan_of_a_checkpoint_names_the_command(wiper, checkpoint):
    code, out, _ = wiper("inspect", checkpoint)
    assert code == 3
    command = f"wiper convert '{checkpoint}' -o '{checkpoint.with_suffix('.safetensors')}'"
    assert command in "".join(out.split("\n"))
