"""Every purifier through the command line on the example in all three kinds of file: what it wrote, or its sentence.

    python -m benchmarks.methods_by_kind [METHOD ...]    # all, or these again

Settings are as short as they go: the question is whether a method works on a file, not how well. A cell passes when
the command ends with 0 and the written file, of the same kind, gives in its own runtime the logits of the purified
network; for a method that changed nothing that is the file as it was.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from common import RESULTS, write_result
from PIL import Image

from wiper_cli.purifiers import METHODS

DIGITS = Path(__file__).resolve().parent.parent / "examples" / "digits"
KINDS = ("model.safetensors", "model.torchscript.pt", "model.onnx")
#: Options that make a run short, for the methods that have them.
BRIEF = {"epochs": 1, "steps": 4, "rounds": 1, "min_steps": 4, "teacher_epochs": 1, "generator_epochs": 1,
         "mask_epochs": 2, "unlearn_epochs": 2, "warmup": 1}  # fmt: skip


def stamped(folder: Path) -> Path:
    """The clean images with the trigger of the example, in folders of their true classes."""
    trigger, mask = (
        np.asarray(Image.open(DIGITS / f"{name}.png").convert("L")) for name in ("trigger", "mask")
    )
    for picture in (DIGITS / "clean").glob("*/*.png"):
        image = np.where(mask > 127, trigger, np.asarray(Image.open(picture).convert("L")))
        (folder / picture.parent.name).mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / picture.parent.name / picture.name)
    return folder


def run(method: str, kind: str, scratch: Path, triggered: Path) -> dict[str, Any]:
    """One cell."""
    out = scratch / f"{method}-{kind}"
    report = scratch / "report.json"
    own = METHODS[method].__dataclass_fields__  # type: ignore[attr-defined]
    brief = [f"--{key.replace('_', '-')}={value}" for key, value in BRIEF.items() if key in own]
    needs = ["--triggered", str(triggered)] if "triggered" in METHODS[method]().needs else []
    done = subprocess.run(
        [
            sys.executable, "-m", "wiper_cli.main", "purify", str(DIGITS / kind), "--clean", str(DIGITS / "clean"),
            "-o", str(out), "--method", method, *brief, *needs, "--detectors", "none", "--accept-unverified",
            "--max-accuracy-drop", "100", "--device", "cpu", "-f", f"json={report}", "-q",
        ],
        capture_output=True, text=True, check=False, cwd=Path(__file__).resolve().parent.parent,
    )  # fmt: skip
    if not report.is_file():
        return {"exit": done.returncode, "sentence": done.stderr.strip().splitlines()[-1:]}
    document = json.loads(report.read_text())
    report.unlink()
    purification = document["purification"] or {}
    written = purification.get("output") or {}
    return {
        "exit": done.returncode,
        "passes": done.returncode == 0 and out.is_file(),
        "changed": len(purification.get("changed", ())),
        "largest_logit_difference": written.get("largest_logit_difference"),
        "sentence": document.get("sentence"),
    }


def main() -> None:
    """Runs the cells of the methods named, one after the other, and keeps what stands of the others."""
    asked = sys.argv[1:] or list(METHODS)
    standing = RESULTS / "methods_by_kind.json"
    found = json.loads(standing.read_bytes())["cells"] if standing.is_file() else {}
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        triggered = stamped(scratch / "triggered")
        for method in asked:
            found[method] = {kind: run(method, kind, scratch, triggered) for kind in KINDS}
    found = {method: found[method] for method in METHODS if method in found}
    passed = sum(cell.get("passes", False) for row in found.values() for cell in row.values())
    write_result("methods_by_kind", {"passed": passed, "of": len(METHODS) * len(KINDS), "cells": found})


if __name__ == "__main__":
    main()
