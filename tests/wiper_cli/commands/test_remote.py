"""Models behind real servers on this machine: a web server, and one that speaks S3."""

import json
import shutil
import subprocess
import sys
import threading
import time
import urllib.request
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest

from wiper_cli.commands.shared.example_files import example_folder
from wiper_cli.commands.shared.remote import place_of, read_at

DIGITS = example_folder()


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture
def web(tmp_path):
    """The address of a web server over a folder, and the folder."""
    pytest.importorskip("fsspec")
    pytest.importorskip("aiohttp")
    folder = tmp_path / "served"
    folder.mkdir()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=folder))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", folder
    server.shutdown()
    server.server_close()


def test_a_model_on_the_web_is_the_same_as_at_home(web, wiper, child):
    address, folder = web
    (folder / "net").mkdir()
    shutil.copy(DIGITS / "model.onnx", folder / "net" / "model.onnx")
    (folder / "net/classes.txt").write_text("\n".join("abcdefghij"))
    code, out, err = wiper(
        "inspect", f"{address}/net/model.onnx?token=secret", DIGITS / "model.onnx", "-f", "json"
    )
    assert code == 0, err
    far, near = json.loads(out)["reports"]
    assert far["model"]["sha256"] == near["model"]["sha256"]
    assert far["model"]["path"] == f"{address}/net/model.onnx"
    assert "secret" not in json.dumps(far["model"]) + err
    assert set(read_at(place_of(f"{address}/net/model.onnx"), 1 << 30).sidecars) == {"classes.txt"}


def test_what_is_not_there_and_what_is_too_large(web, wiper, child):
    address, folder = web
    (folder / "big").write_bytes(b"x" * 1000)
    code, _, err = wiper("inspect", f"{address}/none.onnx", "http://127.0.0.1:9/none.onnx")
    assert code == 2
    assert f"{address}/none.onnx does not exist." in err
    assert "http://127.0.0.1:9/none.onnx cannot be read (ClientConnector" in err
    with pytest.raises(Exception, match="has more than 999 bytes"):
        read_at(place_of(f"{address}/big"), 999)


@pytest.mark.slow
def test_a_bucket(wiper, child, monkeypatch, web):
    pytest.importorskip("s3fs")
    pytest.importorskip("moto.server")
    port = web[0].rpartition(":")[2]  # taken, so that another is free beside it
    port = str(int(port) + 1 if int(port) < 65535 else int(port) - 1)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", port],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        import s3fs

        for _ in range(200):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/moto-api/", timeout=1).close()
                break
            except OSError:
                time.sleep(0.2)
        files = s3fs.S3FileSystem()
        files.mkdir("bucket")
        files.pipe("bucket/net/model.onnx", (DIGITS / "model.onnx").read_bytes())
        files.pipe("bucket/net/config.json", b"{}")
        code, out, err = wiper("inspect", "s3://bucket/net", "s3://bucket/net/none.onnx", "-f", "json")
        assert code == 2, err
        found, lost = json.loads(out)["reports"]
        assert (found["exit_code"], found["model"]["size"]) == (0, (DIGITS / "model.onnx").stat().st_size)
        assert lost["sentence"] == "s3://bucket/net/none.onnx does not exist."
    finally:
        server.kill()
        server.wait()
