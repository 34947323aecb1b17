"""Folders that go with their owner, and files written whole: killed at every step, crossed, full, in the way."""

import errno
import fcntl
import json
import os
import stat
import subprocess
import sys
import threading
import warnings
from contextlib import nullcontext
from pathlib import Path

import killed
import pytest

from wiper_cli import scratch
from wiper_cli.scratch import HIDDEN, claimed, held, names_in, write_whole
from wiper_cli.verdict import Problem


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("scenario", killed.SCENARIOS)
def test_killed_at_every_step_the_old_stands_or_the_new_and_the_next_run_cleans_up(scenario, tmp_path):
    done = subprocess.run(
        [sys.executable, killed.__file__, scenario, tmp_path / "k"], capture_output=True, check=True, timeout=300,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )  # fmt: skip
    rows = json.loads(done.stdout)
    killed.put(scenario, tmp_path / "k")
    old, new = killed.stands(tmp_path / "k"), "" if scenario == "a private copy" else "b"
    assert len(rows) > 9
    assert {found for found, *_ in rows} == {old, new}
    assert {between for _, between, *_ in rows} <= {old, new}
    assert {(last, *left) for *_, last, left in rows} == {(new, *sorted(killed.SCENARIOS[scenario][2]))}


def test_a_folder_is_ours_alone_and_goes_with_all_in_it(tmp_path):
    with held(tmp_path, HIDDEN, "out") as folder:
        (folder / "file").write_bytes(b"x")
        assert stat.S_IMODE(folder.parent.stat().st_mode) == 0o700
        assert folder.parent == tmp_path / ".wiper-out"
    assert names(tmp_path) == []


def test_two_runs_on_one_name_and_one_wins(tmp_path):
    with held(tmp_path, HIDDEN, "out") as first:
        (first / "file").write_bytes(b"x")
        with (
            pytest.raises(Problem, match=r"^Another run of wiper is writing .*out; wait for it, or choose"),
            held(tmp_path, HIDDEN, "out"),
        ):
            pass
        with held(tmp_path, HIDDEN, "other"), held(tmp_path, HIDDEN):
            assert len(names(tmp_path)) == 3
        assert (first / "file").read_bytes() == b"x"
    with held(tmp_path, HIDDEN, "out"):
        pass


def test_who_has_patience_waits(tmp_path):
    released = threading.Event()

    def hold():
        with held(tmp_path, HIDDEN, "out.json"):
            held_now.set()
            released.wait(30)

    held_now, other = threading.Event(), threading.Thread(target=hold)
    other.start()
    held_now.wait(30)
    threading.Timer(0.2, released.set).start()
    write_whole(tmp_path / "out.json", b"late")
    other.join()
    assert (names(tmp_path), (tmp_path / "out.json").read_bytes()) == (["out.json"], b"late")


@pytest.fixture(autouse=True)
def _records(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


def leave(place, model="", data=()):
    """What a killed run leaves."""
    claim = scratch.Claim(place)
    assert scratch._make(claim)
    claim.files.mkdir()
    (claim.files / "big").write_bytes(b"x")
    if model:
        claim.promise(model, data)
    os.close(claim.lock)
    return claim


def plant(place):
    """What somebody packs who knows how it looks, or how it looked in earlier versions."""
    (place / "files").mkdir(parents=True, mode=0o700)
    place.chmod(0o700)
    (place / "files" / "big").write_bytes(b"x")
    (place / "lock").write_bytes(b"")


def tree(folder):
    return {path.relative_to(folder): path.is_file() and path.read_bytes() for path in folder.rglob("*")}


def test_nothing_of_others_is_removed(tmp_path):
    """What is on no record, whatever it looks like, and what took the place of a folder that is."""
    plant(tmp_path / ".wiper-planted")
    plant(tmp_path / "elsewhere")
    (tmp_path / ".wiper-link").symlink_to("elsewhere")
    (tmp_path / ".wiper-file").write_bytes(b"x")
    (tmp_path / ".wiper-empty").mkdir(0o700)
    replaced = leave(tmp_path / ".wiper-replaced", "m", [f"m.{'1' * 16}.data"])
    (tmp_path / f"m.{'1' * 16}.data").write_bytes(b"x")
    replaced.place.rename(tmp_path / "moved")
    plant(replaced.place)
    leave(tmp_path / ".wiper-dead")
    before = tree(tmp_path)
    for _ in range(2):
        with (
            pytest.warns(match=r"\.wiper-empty, \.wiper-planted, \.wiper-replaced left untouched"),
            held(tmp_path, HIDDEN, "out"),
        ):
            pass
    dead = Path(".wiper-dead")
    assert tree(tmp_path) == {
        path: content for path, content in before.items() if dead not in (path, *path.parents)
    }


def test_a_planted_folder_takes_no_data_of_a_model_with_it(tmp_path):
    plant(tmp_path / ".wiper-x")
    data = f"good.onnx.{'0' * 16}.data"
    (tmp_path / data).write_bytes(b"weights")
    (tmp_path / ".wiper-x" / "journal").write_text(json.dumps(["nothing.onnx", data]))
    with pytest.warns(match="left untouched"):
        write_whole(tmp_path / "report.html", b"x")
    assert names(tmp_path) == [".wiper-x", data, "report.html"]


@pytest.mark.parametrize("name", [".wiper-x", ".wiper-out.json"])
@pytest.mark.parametrize("what", ["deep", "brackets", "large"])
def test_nothing_in_a_planted_folder_is_read_or_walked(name, what, tmp_path):
    plant(tmp_path / name)
    if what == "deep":
        inside = os.open(tmp_path / name / "files", os.O_RDONLY)
        for _ in range(1500):
            os.mkdir("a", dir_fd=inside)
            below = os.open("a", os.O_RDONLY, dir_fd=inside)
            os.close(inside)
            inside = below
        os.close(inside)
    else:
        with (tmp_path / name / "journal").open("wb") as file:
            file.write(b"[" * 200_000)
            file.truncate(3 << 30 if what == "large" else 200_000)
    refused = pytest.raises(Problem, match="is in the way; remove it")
    with pytest.warns(match="left untouched"), nullcontext() if name == ".wiper-x" else refused:
        write_whole(tmp_path / "out.json", b"x")
    assert (tmp_path / name / "files" / "big").exists()
    subprocess.run(["rm", "-r", tmp_path / name], check=True)  # pytest itself would go down by recursion


@pytest.mark.parametrize("home", ["", "/dev/null"])
def test_without_a_place_for_records_files_are_written_and_nothing_is_swept(home, tmp_path, monkeypatch):
    leave(tmp_path / ".wiper-dead")
    pair = [f"out.onnx.{digit * 16}.data" for digit in "12"]
    for name in pair:
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "out.onnx").write_text(pair[1])
    monkeypatch.setenv("XDG_CACHE_HOME", home)
    if not home:
        monkeypatch.setattr(Path, "home", lambda: Path("/dev/null"))
    with claimed(tmp_path, HIDDEN, "out.onnx") as claim:
        claim.promise("out.onnx", pair)
        with pytest.raises(Problem, match="in the way"), held(tmp_path, HIDDEN, "out.onnx"):
            pass
    assert names(tmp_path) == [".wiper-dead", "out.onnx", pair[1]]


def test_folders_of_another_user_are_left_alone(tmp_path, monkeypatch):
    leave(tmp_path / ".wiper-dead")
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    scratch._sweep(tmp_path, HIDDEN)
    assert names(tmp_path) == [".wiper-dead"]


@pytest.mark.parametrize("replaced", [False, True])
def test_a_lock_that_was_swept_before_it_was_ours_is_made_again(replaced, tmp_path, monkeypatch):
    real, swept = scratch._flock, []
    record = scratch._record(tmp_path / ".wiper-out")

    def sweep(descriptor):
        if not swept:
            swept.append(True)
            record.unlink()
            if replaced:
                record.touch()
        return real(descriptor)

    monkeypatch.setattr(scratch, "_flock", sweep)
    with held(tmp_path, HIDDEN, "out"), record.open("rb") as lock, pytest.raises(BlockingIOError):
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


@pytest.mark.parametrize(
    "make",
    [
        Path.touch,
        lambda path: path.touch(0o600),
        lambda path: path.symlink_to("/"),
        lambda path: path.mkdir(0o755),
    ],
)
def test_what_stands_in_the_way_is_said_and_kept(tmp_path, make):
    make(tmp_path / ".wiper-out.json")
    with pytest.raises(Problem, match="is in the way; remove it"):
        write_whole(tmp_path / "out.json", b"x")
    assert names(tmp_path) == [".wiper-out.json"]


def test_a_disk_without_locks_is_written_to_and_nothing_is_taken_for_dead(tmp_path, monkeypatch):
    leave(tmp_path / ".wiper-perhaps")

    def none(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", none)
    write_whole(tmp_path / "out.json", b"x")
    assert names(tmp_path) == [".wiper-perhaps", "out.json"]


def test_a_promise_is_kept_for_a_dead_owner(tmp_path):
    """Of data files that it names those go that the standing model does not; nothing else, whatever it says."""
    used, unused, free = (f"m.onnx.{digit * 16}.data" for digit in "123")
    (tmp_path / "m.onnx").write_bytes(b"\0" * (1 << 20) + used.encode())
    for name in (used, unused, free, "notes.txt", ".bashrc"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path.parent / unused).write_bytes(b"x")
    leave(tmp_path / ".wiper-m.onnx", "m.onnx", [used, unused, "notes.txt", ".bashrc", f"../{unused}"])
    write_whole(tmp_path / "other.json", b"x")
    assert names(tmp_path) == sorted([".bashrc", "m.onnx", used, free, "notes.txt", "other.json"])
    assert (tmp_path.parent / unused).exists()


@pytest.mark.parametrize("content", [b"[", b"[]", b'["m", "m.onnx.', b"\xff\n"])
def test_half_a_promise_is_none(tmp_path, content):
    data = tmp_path / f"m.onnx.{'1' * 16}.data"
    data.write_bytes(b"x")
    claim = leave(tmp_path / ".wiper-m.onnx")
    with claim.record.open("ab") as file:
        file.write(content)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a damaged record is none, and the folder is left
        write_whole(tmp_path / "other.json", b"x")
    assert data.exists()
    assert (".wiper-m.onnx" in names(tmp_path)) == content.endswith(b"\n")


def test_names_are_found_across_the_pieces_that_are_read(tmp_path):
    path = tmp_path / "m"
    for at in ((1 << 20) - 5, 3, (1 << 21) - 1):
        path.write_bytes(b"\0" * at + b"here.data" + b"\0" * 9)
        assert names_in(path, ["here.data", "there.data"]) == {"here.data"}
    assert names_in(tmp_path / "none", ["a"]) == set()
    assert names_in(tmp_path, ["a"]) == {"a"}


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_file_is_written_whole_or_not_at_all(step, tmp_path, monkeypatch):
    path = tmp_path / "out.json"
    path.write_bytes(b"old")

    def fail(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(*((os, "fsync") if step == "fsync" else (Path, "replace")), fail)
    with pytest.raises(Problem, match="cannot be written: No space left on device"):
        write_whole(path, b"new contents")
    monkeypatch.undo()
    assert {one.name: one.read_bytes() for one in tmp_path.iterdir()} == {"out.json": b"old"}


@pytest.mark.parametrize(("before", "after"), [(None, 0o644), (0o600, 0o600), (0o664, 0o644), (0o400, 0o400)])
def test_who_could_not_read_it_before_cannot_now(before, after, tmp_path):
    path = tmp_path / "out.json"
    if before is not None:
        path.touch(before)
        path.chmod(before)
    mask = os.umask(0o022)
    try:
        write_whole(path, b"x")
    finally:
        os.umask(mask)
    assert stat.S_IMODE(path.stat().st_mode) == after


def test_a_folder_that_vanishes_is_a_sentence(tmp_path, monkeypatch):
    (tmp_path / "gone").mkdir()
    real = scratch.write_synced

    def vanish(*given):
        os.rename(tmp_path / "gone", tmp_path / "moved")  # noqa: PTH104
        real(*given)

    monkeypatch.setattr(scratch, "write_synced", vanish)
    with pytest.raises(Problem, match=r"out\.json cannot be written: No such file or directory"):
        write_whole(tmp_path / "gone" / "out.json", b"x")
    with pytest.raises(Problem, match=r"out\.json cannot be written: No such file or directory"):
        write_whole(tmp_path / "gone" / "out.json", b"x")
