"""``wiper demo``: the whole story on the bundled example, in one format or in all three."""

import json
import os
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from wiper_cli.commands.shared.example_files import example_folder
from wiper_cli.commands.shared.help import Command
from wiper_cli.reports.plain import plain
from wiper_cli.verdict import ExitCode, Problem
from wiper_cli.worker import launcher

#: One of the same weights for each kind of file; the first is told unasked.
_MODELS = {"onnx": "model.onnx", "torchscript": "model.torchscript.pt", "safetensors": "model.safetensors"}
#: Enough for this network, and for whoever waits.
_EFFORT = ("--effort", "quick")


@click.command(
    cls=Command,
    examples=(
        "wiper demo",
        "wiper demo --format all -o demo/",
    ),
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    default=Path("wiper-demo"),
    show_default=True,
    metavar="DIR",
    help="Folder for the purified files and reports.",
)
@click.option(
    "--format", "kind", type=click.Choice([*_MODELS, "all"]), default=next(iter(_MODELS)), show_default=True,
    help="Kind of file.",
)  # fmt: skip
@click.pass_context
def demo(context: click.Context, output: Path, kind: str) -> None:
    """Tell the whole story on a bundled example.

    Scans, purifies and verifies a small backdoored model.
    """  # fmt: skip
    models = [*_MODELS.values()] if kind == "all" else [_MODELS[kind]]
    started = time.monotonic()
    example = example_folder()
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Problem(f"{output} cannot be used as a folder: {error.strerror}.") from error
    click.echo(
        "A small network reads handwritten digits. Whoever trained it planted a backdoor: a 3x3 patch that turns\n"
        "any digit into the class of the attacker's choice. wiper is told neither the patch nor the class.\n"
        "It is scanned, purified, and measured with the true trigger.\n"
    )
    threads = max(1, (os.cpu_count() or 1) // len(models))
    run = Run(example, output, threads, threading.Lock(), started)
    with ThreadPoolExecutor(len(models)) as pool:
        rows = list(pool.map(run.examine, models))
    _table(rows)
    click.echo(
        f"\n{time.monotonic() - started:.0f} s. Look at the report in a browser: {output / f'{models[0]}.html'}\n"
        "Then try your own model:\n\n"
        "  wiper scan MODEL --clean FOLDER_OF_CLEAN_IMAGES -f text -f html=report.html\n"
        "  wiper purify MODEL --clean FOLDER_OF_CLEAN_IMAGES -o PURIFIED\n"
    )
    context.exit(ExitCode.OK if all(row["ok"] for row in rows) else ExitCode.USAGE)


@dataclass(frozen=True)
class Run:
    """What the files share. ``threads``: of each worker, since they are examined side by side."""

    example: Path
    output: Path
    threads: int
    lock: threading.Lock
    started: float

    def examine(self, name: str) -> dict[str, Any]:
        """Scan, purify and verify one file; returns the row of the closing table."""
        model, purified = self.example / name, self.output / f"purified-{name}"
        clean = ("--clean", self.example / "clean")
        scan = self._wiper(name, "scan", model, *clean, *_EFFORT, "--no-cache")
        page = f"html={self.output / f'{name}.html'}"
        purify = self._wiper(name, "purify", model, *clean, *_EFFORT, "-o", purified, "--force", "-f", page)
        if not (purify["purification"] or {}).get("accepted"):
            return {"name": name, "ok": False}
        verify = self._wiper(
            name, "verify", model, purified, *clean, "--triggers", "none",
            "--trigger-image", self.example / "trigger.png", "--mask", self.example / "mask.png",
        )  # fmt: skip
        if verify["verification"] is None:
            return {"name": name, "ok": False}
        before, after = verify["verification"]["before"], verify["verification"]["after"]
        old, new = before["triggers"][0], after["triggers"][0]
        return {
            "name": name,
            "ok": scan["exit_code"] == ExitCode.FINDING and purify["exit_code"] == ExitCode.OK,
            "acc": (before["acc"]["value"], after["acc"]["value"]),
            "asr": (old["asr"]["value"], new["asr"]["value"]),
            "ra": (old["ra"]["value"], new["ra"]["value"]),
        }

    def _wiper(self, name: str, command: str, *arguments: str | Path) -> dict[str, Any]:
        """Runs the real command as a user would, says what came of it, and returns its JSON result."""
        result = self.output / f"{name}.{command}.json"
        result.unlink(missing_ok=True)
        with self.lock:
            click.echo(f"[{time.monotonic() - self.started:4.0f} s] wiper {command} {name} ...")
        outcome = subprocess.run(
            launcher.command("-m", "wiper_cli.main", command, *map(str, arguments), "-f", f"json={result}", "--quiet"),
            env=launcher.environment(OMP_NUM_THREADS=str(self.threads)), capture_output=True, text=True, check=False,
        )  # fmt: skip
        try:
            document: dict[str, Any] = json.loads(result.read_bytes())
        except (OSError, ValueError) as error:
            said = outcome.stderr.strip().splitlines()
            raise Problem(
                f"'wiper {command}' gave no result: {said[-1] if said else outcome.returncode}"
            ) from error
        with self.lock:
            click.echo(
                f"[{time.monotonic() - self.started:4.0f} s] wiper {command} {name}: exit {outcome.returncode}"
            )
            click.echo(f"         {plain(document['sentence'])}")
        return document


def _table(rows: list[dict[str, Any]]) -> None:
    """ACC, ASR and RA with the true trigger, before and after, measured by ``wiper verify``."""
    click.echo(f"\n{'with the true trigger':<22}{'accuracy':>18}{'attack success':>18}{'recovered':>18}")
    for row in rows:
        if "acc" not in row:
            click.echo(f"{row['name']:<22}not purified, or not measured")
            continue
        cells = [f"{100 * a:.1f} → {100 * b:.1f} %" for a, b in (row["acc"], row["asr"], row["ra"])]
        click.echo(f"{row['name']:<22}{cells[0]:>18}{cells[1]:>18}{cells[2]:>18}")
