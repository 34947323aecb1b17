from __future__ import annotations

import os

import pytest

from wiper_cli.commands.running import check_requested, deliver, write_whole
from wiper_cli.verdict import Problem


def test_a_report_replaces_what_a_link_names_and_keeps_the_link(tmp_path):
    (tmp_path / "real.json").write_text("old")
    (tmp_path / "link.json").symlink_to("real.json")
    write_whole(tmp_path / "link.json", b"new")
    assert (tmp_path / "link.json").is_symlink()
    assert (tmp_path / "real.json").read_bytes() == b"new"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link.json", "real.json"]


def test_a_pipe_is_written_to_and_not_replaced(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        write_whole(pipe, b"new")
        assert os.read(reader, 10) == b"new"
    finally:
        os.close(reader)
    assert pipe.is_fifo()


def test_a_report_never_replaces_a_model(tmp_path):
    model = tmp_path / "model.onnx"
    model.touch()
    with pytest.raises(Problem, match="would replace"):
        check_requested([f"json={tmp_path}/./model.onnx"], [model])
    check_requested([f"json={tmp_path}/result.json"], [model])


def test_a_folder_is_no_report(tmp_path):
    with pytest.raises(Problem, match="is a folder"):
        check_requested([f"html={tmp_path}"])


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission_is_refused_early(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(Problem, match="permission"):
        check_requested([f"html={tmp_path}/a.html"])


def test_a_reader_that_went_away_keeps_the_other_outputs(tmp_path, monkeypatch, report):
    class Gone:
        def isatty(self):
            return False

        def write(self, text):
            raise BrokenPipeError

        def fileno(self):
            return spare

    spare = os.open(os.devnull, os.O_WRONLY)
    monkeypatch.setattr("sys.stdout", Gone())
    deliver(["text", f"json={tmp_path}/result.json"], [report])
    os.close(spare)
    assert (tmp_path / "result.json").read_text().startswith("{")


@pytest.fixture
def report(tmp_path):
    from wiper_cli import document

    begun = document.begin("scan", [], tmp_path / "model.onnx", 0)
    document.refuse(begun, Problem("Nothing was looked at."))
    return begun
