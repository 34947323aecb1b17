"""The old file stands or the new one, with its data, whatever happens; killed at every step: ``test_scratch.py``."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import stat
from pathlib import Path

import pytest
from killed import pair
from refusals import refused

from formats import Source
from wiper_cli.commands.shared import transaction
from wiper_cli.commands.shared.transaction import commit, lay_out, reserved
from wiper_cli.scratch import Claim
from wiper_cli.verdict import ExitCode, Problem

SOURCE = Source("m.onnx", b"model")


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def purify(output, files, force=False, original=Path("none.onnx"), source=SOURCE):
    with reserved(output, original, force) as place:
        commit(place, lay_out(place, source, files))


def standing(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_committed_file_stands_with_all_it_names(tmp_path):
    files = pair("b")
    with reserved(tmp_path / "out.onnx", tmp_path / "m.onnx", False) as place:
        stage = lay_out(place, SOURCE, files)
        assert (stage.model.name, stage.model.read_bytes()) == ("out.onnx", files["out.onnx"])
        assert (stage.model.parent / stage.data[0]).read_bytes() == files[stage.data[0]]
        assert stage.sha256 == hashlib.sha256(files["out.onnx"]).hexdigest()
        assert stage.size == sum(map(len, files.values()))
        assert not (tmp_path / "out.onnx").exists()
        commit(place, stage)
    assert standing(tmp_path) == files
    assert {path.stat().st_nlink for path in tmp_path.iterdir()} == {1}


def test_the_description_lies_beside_the_file_while_it_is_checked_and_no_longer(tmp_path):
    described = Source("model.safetensors", b"old", sidecars={"config.json": b"{}"})
    with reserved(tmp_path / "out.safetensors", tmp_path / "none", False) as place:
        stage = lay_out(place, described, {"out.safetensors": b"new"})
        assert (stage.model.parent / "config.json").read_bytes() == b"{}"
        commit(place, stage)
    assert standing(tmp_path) == {"out.safetensors": b"new"}


@pytest.mark.parametrize("force", [False, True])
def test_what_has_a_name_is_on_the_disk(force, tmp_path, monkeypatch):
    """Each file and the promise before anything is renamed, the data's names before the model has its own, and that."""
    model, data = sorted(pair("b"))
    done = []
    for name in ("fsync", "link", "replace"):
        real = getattr(os, name)

        def watched(one, *more, _name=name, _real=real):
            done.append(
                (_name, Path(f"/proc/self/fd/{one}").readlink().name if _name == "fsync" else one.name)
            )
            return _real(one, *more)

        monkeypatch.setattr(os, name, watched)
    purify(tmp_path / "out.onnx", pair("b"), force)
    record = re.compile(r"[0-9a-f]{32}-[0-9a-f]{32}")
    after = [
        (name, record.sub("record", what)) for name, what in done if what not in ("files", ".wiper-out.onnx")
    ]
    assert after == [
        ("fsync", data), ("fsync", model), ("fsync", "record"), ("replace", data), ("fsync", tmp_path.name),
        ("replace" if force else "link", model), ("fsync", tmp_path.name),
    ]  # fmt: skip


@pytest.mark.parametrize("fails", [False, True], ids=["no commit", "a failure"])
def test_without_commit_nothing_remains(tmp_path, fails):
    try:
        with reserved(tmp_path / "out.onnx", tmp_path / "m.onnx", False) as place:
            lay_out(place, SOURCE, pair("b"))
            if fails:
                raise RuntimeError
    except RuntimeError:
        pass
    assert names(tmp_path) == []


def test_force_replaces_a_pair_as_one_and_touches_nothing_else(tmp_path):
    """Data that only looks like ours stays: the model that was replaced did not name it."""
    others = {"w.data": b"somebody's", f"out.onnx.{'c' * 16}.data": b"of a copy", "m.onnx": b"model"}
    for name, data in (others | pair("a")).items():
        (tmp_path / name).write_bytes(data)
    purify(tmp_path / "out.onnx", pair("b"), force=True)
    assert standing(tmp_path) == others | pair("b")
    purify(tmp_path / "out.onnx", pair("b"), force=True)
    assert standing(tmp_path) == others | pair("b")
    purify(tmp_path / "out.onnx", {"out.onnx": b"alone"}, force=True)
    assert standing(tmp_path) == others | {"out.onnx": b"alone"}


def test_a_model_that_is_replaced_takes_no_data_of_another_with_it(tmp_path):
    """Whoever planted it may have named in it what belongs to others."""
    other = f"good.onnx.{'c' * 16}.data"
    (tmp_path / other).write_bytes(b"weights")
    (tmp_path / "out.onnx").write_bytes(other.encode())
    purify(tmp_path / "out.onnx", pair("b"), force=True)
    assert standing(tmp_path) == {other: b"weights", **pair("b")}


def test_data_of_another_content_is_not_replaced(tmp_path):
    model, data = sorted(pair("b"))
    (tmp_path / data).write_bytes(b"forged")
    for force in (False, True):
        with pytest.raises(Problem, match="exists already and is something else"):
            purify(tmp_path / "out.onnx", pair("b"), force)
        assert standing(tmp_path) == {data: b"forged"}
    (tmp_path / data).write_bytes(pair("b")[data])
    purify(tmp_path / "out.onnx", pair("b"))
    assert names(tmp_path) == [model, data]


@pytest.mark.parametrize("failing", ["write", "fsync", "promise", "link"])
@pytest.mark.parametrize("before", [{}, pair("a")], ids=["new", "replaced"])
def test_a_full_disk_loses_nothing_and_says_so(failing, before, tmp_path, monkeypatch):
    for name, data in before.items():
        (tmp_path / name).write_bytes(data)

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    where = {"write": (os, "fdopen"), "fsync": (os, "fsync"), "promise": (Claim, "promise")}
    monkeypatch.setattr(*where.get(failing, (transaction, "_put")), full)
    with refused(r"out\.onnx cannot be written: No space left on device", ExitCode.USAGE):
        purify(tmp_path / "out.onnx", pair("b"), force=bool(before))
    assert standing(tmp_path) == before


def test_a_destination_without_links_is_not_overwritten_either(tmp_path, monkeypatch):
    def none(*_):
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", none)
    purify(tmp_path / "out.onnx", pair("b"))
    assert standing(tmp_path) == pair("b")
    with reserved(tmp_path / "more.onnx", tmp_path / "m.onnx", False) as place:
        stage = lay_out(place, SOURCE, {"more.onnx": b"new"})
        (tmp_path / "more.onnx").symlink_to("nowhere")
        with pytest.raises(Problem, match="meanwhile"):
            commit(place, stage)


def test_destinations_that_are_refused(tmp_path):
    model = tmp_path / "model.onnx"
    model.write_bytes(b"x")
    (tmp_path / "link.onnx").symlink_to(model)
    (tmp_path / "loose.onnx").symlink_to("nowhere")
    other = tmp_path / "other.onnx"
    other.write_bytes(b"y")
    before = names(tmp_path)
    for output, force, sentence in [
        (model, True, "input file itself"),
        (tmp_path / "link.onnx", True, "input file itself"),
        (other, False, "exists already; --force replaces it"),
        (tmp_path / "loose.onnx", False, "exists already; --force replaces it"),
        (tmp_path, False, "is a folder"),
        (tmp_path / "no" / "out.onnx", False, "does not exist"),
        (tmp_path / ("a" * 250), False, "Nothing can be written to .*: File name too long"),
    ]:
        with refused(sentence, ExitCode.USAGE), reserved(output, model, force):
            pass
    for output, force in [(other, True), (tmp_path / "new.onnx", False)]:
        with reserved(output, model, force):
            pass
    assert names(tmp_path) == before


def test_a_link_as_output_is_replaced_and_what_it_names_is_kept(tmp_path):
    (tmp_path / "precious").write_bytes(b"kept")
    for name, to in (("out.onnx", "precious"), ("loose.onnx", "nowhere")):
        (tmp_path / name).symlink_to(to)
        purify(tmp_path / name, {name: b"new"}, force=True)
    assert standing(tmp_path) == {"precious": b"kept", "out.onnx": b"new", "loose.onnx": b"new"}
    assert not any(path.is_symlink() for path in tmp_path.iterdir())


@pytest.mark.root
def test_a_folder_without_permission_is_refused(tmp_path):
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    with (
        pytest.raises(Problem, match=r"Nothing can be written to .*: Permission denied"),
        reserved(closed / "out.onnx", tmp_path / "m.onnx", force=False),
    ):
        pass


def test_a_folder_that_vanishes_is_a_sentence(tmp_path):
    (tmp_path / "gone").mkdir()
    with reserved(tmp_path / "gone" / "out.onnx", tmp_path / "m.onnx", False) as place:
        stage = lay_out(place, SOURCE, pair("b"))
        (tmp_path / "gone").rename(tmp_path / "moved")
        with refused(r"out\.onnx cannot be written: No such file", ExitCode.USAGE):
            lay_out(place, SOURCE, pair("b"))
        with refused(r"out\.onnx cannot be written: No such file", ExitCode.USAGE):
            commit(place, stage)


def test_of_two_runs_on_one_output_one_wins(tmp_path):
    with reserved(tmp_path / "out.onnx", tmp_path / "m.onnx", False) as place:
        with (
            refused(r"Another run of wiper is writing .*out\.onnx", ExitCode.USAGE),
            reserved(tmp_path / "out.onnx", tmp_path / "m.onnx", True),
        ):
            pass
        commit(place, lay_out(place, SOURCE, pair("b")))
    assert standing(tmp_path) == pair("b")


@pytest.mark.parametrize("files", [{"out.onnx": b"new"}, pair("b")], ids=["file", "pair"])
def test_a_file_that_appeared_meanwhile_is_kept(tmp_path, files):
    out = tmp_path / "out.onnx"
    with reserved(out, tmp_path / "m.onnx", False) as place:
        stage = lay_out(place, SOURCE, files)
        out.write_bytes(b"another's")
        with refused("meanwhile; --force replaces it", ExitCode.USAGE):
            commit(place, stage)
    assert standing(tmp_path) == {"out.onnx": b"another's"}


@pytest.mark.parametrize(
    ("model", "data", "mask", "after"),
    [
        (0o600, 0o644, 0o022, 0o600),
        (0o644, 0o600, 0o022, 0o600),
        (0o644, 0o644, 0o022, 0o644),
        (0o644, 0o644, 0o077, 0o600),
        (0o664, 0o664, 0o002, 0o664),
        (0o444, 0o444, 0o022, 0o444),
        (0o777, 0o777, 0o022, 0o644),
    ],
)
def test_nobody_can_read_the_output_who_could_not_read_the_input(model, data, mask, after, tmp_path):
    original = tmp_path / "in" / "m.onnx"
    original.parent.mkdir()
    for path, mode in ((original, model), (original.parent / "w.bin", data)):
        path.write_bytes(b"x")
        path.chmod(mode)
    before = os.umask(mask)
    try:
        (tmp_path / "to").mkdir()
        purify(
            tmp_path / "to" / "out.onnx", pair("b"), False, original, Source("m.onnx", b"", {"w.bin": b""})
        )
    finally:
        os.umask(before)
    assert {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "to").iterdir()} == {after}


def test_rights_of_a_group_that_the_output_does_not_get_are_dropped(tmp_path, monkeypatch):
    original = tmp_path / "m.onnx"
    original.write_bytes(b"x")
    original.chmod(0o664)
    real = Path.stat

    def foreign(path, **options):
        found = list(real(path, **options))
        return os.stat_result([*found[:5], 4242, *found[6:]]) if path == original else real(path, **options)

    monkeypatch.setattr(Path, "stat", foreign)
    purify(tmp_path / "out.onnx", {"out.onnx": b"x"}, original=original)
    monkeypatch.undo()
    assert stat.S_IMODE((tmp_path / "out.onnx").stat().st_mode) == 0o604


def test_an_original_that_is_gone_leaves_its_copy_to_us_alone(tmp_path):
    purify(tmp_path / "out.onnx", {"out.onnx": b"x"}, original=tmp_path / "gone.onnx")
    assert stat.S_IMODE((tmp_path / "out.onnx").stat().st_mode) == 0o600
