"""What must not be imported where (DESIGN section 4) beyond the import contracts, and how fast help answers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
HEAVY = ("torch", "onnx", "onnxruntime", "torchvision", "matplotlib", "timm")


def imported(code: str) -> set[str]:
    program = f"import sys\n{code}\nprint(*[m for m in {HEAVY!r} + ('numpy',) if m in sys.modules])"
    outcome = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=True
    )
    return set(outcome.stdout.splitlines()[-1].split()) if outcome.stdout.strip() else set()


@pytest.mark.parametrize(
    "module",
    ["formats", "triggers", "wiper_cli.main", "wiper_cli.reports", "wiper_cli.detectors", "wiper_cli.purifiers",
     "wiper_cli.worker.parent", "wiper_cli.audit.judgement"],
)  # fmt: skip
def test_light_modules_load_nothing_heavy(module):
    assert not imported(f"import {module}")


@pytest.mark.parametrize(
    "function", ["formats.identify", "formats.inspect", "formats.write_edit", "formats.unpack_edit"]
)
def test_the_static_half_of_formats_needs_no_torch_and_no_numpy(function):
    assert not imported(f"import formats; {function}")


@pytest.mark.parametrize("arguments", [["--help"], ["purify", "--help"], ["rules"], ["triggers"]])
def test_commands_that_compute_nothing_load_nothing_heavy(arguments):
    call = "from wiper_cli.main import main\ntry:\n    main()\nexcept SystemExit:\n    pass"
    code = f"sys.argv = ['wiper', *{arguments!r}]\n{call}"
    assert not imported(code)
