"""``wiper demo``: the whole story on the bundled example, in all three formats."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import click

from wiper_cli.example_files import example_folder
from wiper_cli.verdict import ExitCode, Problem

_MODELS = ("model.safetensors", "model.torchscript.pt", "model.onnx")


@click.command()
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    default=Path("wiper-demo"),
    show_default=True,
    metavar="DIR",
    help="Folder for the purified files and reports.",
)
@click.pass_context
def demo(context: click.Context, output: Path) -> None:
    """Scan, purify and verify a small backdoored model in three formats."""  # fmt: skip
    started = time.monotonic()
    example = example_folder()
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Problem(f"{output} cannot be used as a folder: {error.strerror}.") from error
    click.echo(
        "A small network reads handwritten digits. Whoever trained it planted a backdoor: a 3x3 patch that turns\n"
        "any digit into the class of the attacker's choice. wiper is told neither the patch nor the class.\n"
    )
    rows = []
    for name in _MODELS:
        click.echo(f"== {name}")
        rows.append(_one(example, name, output))
    _table(rows)
    page = output / "model.onnx.html"
    click.echo(
        f"\n{time.monotonic() - started:.0f} s. The HTML report of the ONNX file: {page}\n"
        f"Look at it in a browser. Then try your own model:\n\n"
        f"  wiper scan MODEL --clean FOLDER_OF_CLEAN_IMAGES -f text -f html=report.html\n"
        f"  wiper purify MODEL --clean FOLDER_OF_CLEAN_IMAGES -o PURIFIED\n"
    )
    context.exit(ExitCode.OK if all(row["ok"] for row in rows) else ExitCode.USAGE)


def _one(example: Path, name: str, output: Path) -> dict[str, Any]:
    """Scan, purify and verify one file; returns the row of the closing table."""
    clean = ["--clean", str(example / "clean")]
    purified = output / f"purified-{name}"
    scan = _wiper("scan", example / name, *clean, result=output / f"{name}.scan.json")
    click.echo(f"scan    exit {scan['exit_code']}: {scan['sentence']}")
    purify = _wiper(
        "purify", example / name, *clean, "-o", purified, "--force", "-f", f"html={output / f'{name}.html'}",
        result=output / f"{name}.purify.json",
    )  # fmt: skip
    click.echo(f"purify  exit {purify['exit_code']}: {purify['sentence']}")
    if not (purify["purification"] or {}).get("accepted"):
        return {"name": name, "ok": False}
    verify = _wiper(
        "verify", example / name, purified, *clean, "--triggers", "none", "--trigger-image", example / "trigger.png",
        "--mask", example / "mask.png", result=output / f"{name}.verify.json",
    )  # fmt: skip
    click.echo(f"verify  exit {verify['exit_code']}: {verify['sentence']}\n")
    before, after = verify["verification"]["before"], verify["verification"]["after"]
    return {
        "name": name,
        "ok": scan["exit_code"] == ExitCode.FINDING and purify["exit_code"] == ExitCode.OK,
        "acc": (before["acc"]["value"], after["acc"]["value"]),
        "asr": (before["triggers"][0]["asr"]["value"], after["triggers"][0]["asr"]["value"]),
        "ra": (before["triggers"][0]["ra"]["value"], after["triggers"][0]["ra"]["value"]),
    }


def _wiper(command: str, *arguments: str | Path, result: Path) -> dict[str, Any]:
    """Runs the real command as a user would and returns its JSON result."""
    call = [sys.executable, "-m", "wiper_cli.main", command, *map(str, arguments), "-f", f"json={result}"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    if not sys.stderr.isatty():
        call.append("--quiet")
    result.unlink(missing_ok=True)
    outcome = subprocess.run(call, env=environment, stdout=subprocess.DEVNULL, check=False)
    try:
        document: dict[str, Any] = json.loads(result.read_bytes())
    except (OSError, ValueError) as error:
        raise Problem(f"'wiper {command}' ended with {outcome.returncode} and no result.") from error
    return document


def _table(rows: list[dict[str, Any]]) -> None:
    """ACC, ASR and RA with the true trigger, before and after, measured by ``wiper verify``."""
    click.echo(f"{'':<22}{'accuracy':>16}{'attack success':>18}{'recovered':>16}")
    for row in rows:
        if "acc" not in row:
            click.echo(f"{row['name']:<22}not purified")
            continue
        cells = [f"{100 * a:.1f} → {100 * b:.1f} %" for a, b in (row["acc"], row["asr"], row["ra"])]
        click.echo(f"{row['name']:<22}{cells[0]:>16}{cells[1]:>18}{cells[2]:>16}")
