"""How long ``wiper --help`` takes, and that it imports nothing heavy.

    python -m benchmarks.start_up [--rounds 10]

Beside it, in the same run: an interpreter that does nothing, one that imports click, and one that imports torch.
"""

import argparse
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.common import write_result

ROOT = Path(__file__).resolve().parent.parent
LIMIT_SECONDS = 0.3
HEAVY = ("torch", "onnx", "onnxruntime", "torchvision", "matplotlib", "numpy", "PIL")
HELP = "import sys; sys.argv = ['wiper', '--help']; from wiper_cli.main import main; main()"
PROGRAMS = {"nothing": "pass", "click": "import click", "help": HELP, "torch": "import torch"}
LOADED = f"""
import atexit, sys
atexit.register(lambda: print([n for n in {HEAVY} if n in sys.modules], file=sys.stderr))
{HELP}
"""


def seconds(program: str) -> tuple[float, float]:
    """Wall and processor time of one interpreter; the second hardly depends on what else the machine does."""
    began, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.DEVNULL, check=True)
    wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def middle(times: list[tuple[float, float]], clock: int) -> float:
    """Median in seconds."""
    return round(statistics.median(pair[clock] for pair in times), 3)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=10)
    rounds = parser.parse_args().rounds
    for program in PROGRAMS.values():
        seconds(program)
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in PROGRAMS}
    for _ in range(rounds):
        for name, program in PROGRAMS.items():
            taken[name].append(seconds(program))
    loaded = subprocess.run(
        [sys.executable, "-c", LOADED], cwd=ROOT, capture_output=True, text=True, check=True
    )
    write_result(
        "start_up",
        {
            "settings": {"rounds": rounds},
            "limit_seconds": LIMIT_SECONDS,
            "wall_seconds": {name: middle(times, 0) for name, times in taken.items()},
            "cpu_seconds": {name: middle(times, 1) for name, times in taken.items()},
            "heavy_modules_imported": loaded.stderr.strip().splitlines()[-1],
        },
    )


if __name__ == "__main__":
    main()
