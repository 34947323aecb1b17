"""A fleet on a Ray cluster of this machine whose workers are killed at random, and whose driver is killed once.

    python -m benchmarks.fleet_lost [--models 200] [--every 60] [--seed 0] [--detectors square-probe]

Models are the digits' honest twin (examples/digits) and, each tenth, the network with the backdoor, one bias of each
changed by a hair, so that no two files are alike. ``wiper scan FOLDER --ray HOST:PORT --jobs 2 --output-dir DIR``
scans them on a cluster of two processors, with few detectors: what is tried is the fleet, not what is found. Meanwhile
one of the workers that are scanning is killed (SIGKILL) after a wait drawn from an exponential distribution with
mean ``--every`` seconds. When half of the reports stand the driver is killed, too, and the same command is given again.
Counted is how many verdicts are there at the end, how many models have two, how many have the verdict that their kind
should, and how many of those that had a report the second command scanned again. Linux alone. Writes
``benchmarks/results/fleet_lost.json``; ``python -m benchmarks.fleet --page`` renders it.
"""

import argparse
import json
import os
import random
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from wiper_cli.commands.shared.example_files import example_folder
from wiper_cli.verdict import ExitCode

ROOT = Path(__file__).resolve().parents[1]
RESULT = ROOT / "benchmarks/results/fleet_lost.json"
#: Which networks have the backdoor.
_BACKDOORED = 10


def make(folder: Path, count: int) -> dict[str, str]:
    """The files, and the verdict that each should have, by name."""
    from safetensors.torch import load_file, save_file

    expected = {}
    for number in range(count):
        name, verdict = ("twin", "no_finding") if number % _BACKDOORED else ("model", "suspicious")
        tensors = load_file(example_folder() / f"{name}.safetensors")
        bias = next(key for key in reversed(tensors) if key.endswith("bias"))
        tensors[bias][0] += 1e-5 * number
        save_file(tensors, folder / f"{number:04}.safetensors")
        expected[f"{number:04}.safetensors"] = verdict
    return expected


def workers(ancestor: int) -> list[int]:
    """Processes of Ray below that one which scan at this moment."""
    parents, scanning = {}, []
    for place in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            parents[int(place.name)] = int((place / "stat").read_text().rpartition(")")[2].split()[1])
            if b"_attempt" in (place / "cmdline").read_bytes():
                scanning.append(int(place.name))

    def below(pid: int) -> bool:
        while pid not in (ancestor, 0):
            pid = parents.get(pid, 0)
        return pid == ancestor

    return [pid for pid in sorted(scanning) if below(pid)]


@contextmanager
def cluster(place: Path) -> Iterator[tuple[str, int]]:
    """A cluster of this machine: its address, and the process that holds it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    command = [
        sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--node-ip-address", "127.0.0.1",
        "--port", address.partition(":")[2], "--num-cpus", "2", "--include-dashboard", "false",
        "--disable-usage-stats", "--temp-dir", place,
    ]  # fmt: skip
    said = place.with_name("ray.log")
    for _ in range(5):  # on a busy machine Ray gives up after half a minute
        with said.open("w") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log)
        while process.poll() is None and "Ray runtime started" not in said.read_text():
            time.sleep(0.5)
        if process.poll() is None:
            break
    try:
        yield address, process.pid
    finally:
        process.terminate()
        process.wait()


def drive(
    command: list[str], out: Path, ray: int, chance: random.Random, every: float, most: int
) -> dict[str, Any]:
    """One driver with its losses; it is killed when ``most`` reports stand. ``ray``: the process of the cluster."""
    began, killed = time.monotonic(), 0
    process = subprocess.Popen(command, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"})
    due = began + chance.expovariate(1 / every)
    while process.poll() is None:
        time.sleep(0.5)
        if len(reports(out)) >= most:
            process.kill()
            process.wait()
        elif time.monotonic() >= due and (found := workers(ray)):
            with suppress(ProcessLookupError):
                os.kill(chance.choice(found), signal.SIGKILL)
                killed += 1
            due = time.monotonic() + chance.expovariate(1 / every)
    return {
        "seconds": round(time.monotonic() - began, 1),
        "killed": killed,
        "exit_code": process.returncode,
        "reports": len(reports(out)),
    }


def reports(out: Path) -> list[Path]:
    return list(out.glob("*/report.json"))


def measure(count: int, every: float, seed: int, detectors: str) -> dict[str, Any]:
    """Both drivers, and what stands after them."""
    chance, load = random.Random(seed), os.getloadavg()[0]
    os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    with tempfile.TemporaryDirectory() as place:
        models, out = Path(place) / "models", Path(place) / "out"
        models.mkdir()
        expected = make(models, count)
        with cluster(Path(place) / "ray") as (address, ray):
            command = [
                sys.executable, "-m", "wiper_cli.main", "scan", str(models), "--clean", str(example_folder() / "clean"),
                "--effort", "quick", "--detectors", detectors, "--device", "cpu", "--ray", address, "--jobs", "2",
                "--output-dir", str(out), "-q",
            ]  # fmt: skip
            first = drive(command, out, ray, chance, every, count // 2)
            stood = {path.parent.name for path in reports(out)}
            second = drive(command, out, ray, chance, every, count + 1)
        if (first["exit_code"], second["exit_code"]) != (-signal.SIGKILL, ExitCode.FINDING):
            raise SystemExit(f"the drivers ended with {first['exit_code']} and {second['exit_code']}")
        rows = json.loads((out / "index.json").read_text())["models"]
        found = Counter(Path(row["path"]).name for row in rows)
        right = sum(expected[Path(row["path"]).name] == row["verdict"] for row in rows)
        again = [row["folder"] for row in rows if row["folder"] in stood and not row["taken"]]
        digests = {row["digest"] for row in rows}
    return {
        "benchmark": "fleet_lost",
        "settings": {
            "models": count, "effort": "quick", "detectors": detectors, "every": every, "seed": seed, "workers": 2,
            "cores": os.cpu_count(), "load": round(load, 1),
        },
        "first": first,
        "second": second,
        "verdicts": len(found),
        "digests": len(digests),
        "twice": sum(number > 1 for number in found.values()),
        "as_expected": right,
        "taken": sum(bool(row["taken"]) for row in rows),
        "again": len(again),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--models", type=int, default=200)
    parser.add_argument("--every", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--detectors", default="square-probe")
    parser.add_argument("-o", type=Path, default=RESULT)
    option = parser.parse_args()
    found = measure(option.models, option.every, option.seed, option.detectors)
    option.o.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
