"""What a system without POSIX's own modules would meet; it stands for Windows, which no test here runs on."""

import pkgutil
import subprocess
import sys

import formats
import triggers
import wiper_cli

ABSENT = ("fcntl", "resource", "termios", "pwd", "grp", "tty")


def test_every_module_is_imported_without_posix():
    """torch and others may need them, so they are loaded before the modules are hidden."""
    names = [
        found.name
        for package in (formats, triggers, wiper_cli)
        for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
        if not found.name.endswith((".main", ".child", ".__main__"))
    ]
    assert len(names) > 150
    program = (
        "import sys, importlib, multiprocessing, tempfile, subprocess, torch, onnxruntime, onnx, click, rich, jinja2\n"
        f"for name in {ABSENT!r}: sys.modules[name] = None\n"
        "for name in sys.argv[1:]:\n"
        "    try: importlib.import_module(name)\n"
        "    except ModuleNotFoundError as error:\n"
        f"        assert error.name not in {ABSENT!r}, (name, error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *names], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
