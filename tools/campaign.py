"""``python -m tools.campaign --seconds N``: the fuzzer over all targets for as long as there is time, with a record.

Always the target that has had the least goes on, for ``--slice`` seconds, with the inputs that it found before
(``.fuzz/``). What each has had is counted in processor seconds of fuzzing, without the start, and added to the record
after every slice, so that a campaign can be stopped (Ctrl-C, SIGTERM) and resumed at any time; slices that were stopped
do not count. A fault is written to the record, and its target rests in this call. The page made of the record:
``docs/results/fuzzing.md`` (``--page``).
"""

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from threading import Event, Lock
from typing import Any

from tools.fuzz import CAMPAIGN, MEMORY, ROOT, SECONDS, TARGETS

RECORD = ROOT / "benchmarks" / "results" / "fuzzing.json"
PAGE = ROOT / "docs" / "results" / "fuzzing.md"
EMPTY: dict[str, Any] = {"processor_seconds": 0.0, "inputs": 0, "slices": 0, "kept": 0, "faults": []}


def read(path: Path) -> dict[str, Any]:
    """The record at ``path``, with a line for every target."""
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"targets": {}}
    found["targets"] = {name: {**EMPTY, "faults": [], **found["targets"].get(name, {})} for name in TARGETS}
    return found


def write(path: Path, record: dict[str, Any]) -> None:
    """Replaces the record as a whole."""
    part = path.with_name(f"{path.name}.part")
    part.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    part.replace(path)


def add(line: dict[str, Any], said: str, spent: float, artifacts: list[str], kept: int) -> None:
    """One slice to the ``line`` of its target: what the fuzzer said and the processor seconds of its process."""
    began = re.search(r"^campaign: began after ([\d.]+)$", said, re.MULTILINE)
    done = re.search(r"^stat::number_of_executed_units:\s*(\d+)$", said, re.MULTILINE)
    line["processor_seconds"] = round(
        line["processor_seconds"] + max(0.0, spent - float(began[1] if began else spent)), 1
    )
    line["inputs"] += int(done[1]) if done else 0
    line["slices"] += 1
    line["kept"] = kept
    for name in artifacts:
        day = datetime.now(UTC).date().isoformat()
        line["faults"].append({"input": name, "day": day, "said": _cause(said), "mended": ""})


def _cause(said: str) -> str:
    """The exception's line, else libFuzzer's."""
    lines = said.splitlines()
    exceptions = [line for line in lines if re.match(r"\s*(\w+\.)*\w*(Error|Exception|Hostile)\b", line)]
    alarms = [line for line in lines if "ERROR: libFuzzer" in line]
    return next(iter(reversed(exceptions or alarms or ["?"])))[:200].strip()


def page(record: dict[str, Any]) -> str:
    """What each target has had, and what was found."""
    lines = [
        "# Fuzzing campaigns",
        "",
        "Made by `python -m tools.campaign --page` from `benchmarks/results/fuzzing.json`.",
        "",
        "Fuzzing guided by coverage of what reads a stranger's bytes (`tools/fuzz.py`), in processor time of fuzzing "
        "itself over all campaigns that were recorded, of the code as it stood while it ran. A fault is whatever is "
        "none of a reader's own errors, an answer that another reader contradicts, more than "
        f"{SECONDS} s of processor time for one input, or more than {MEMORY} MiB.",
        "",
        "| target | minutes | inputs run | inputs kept for what they reach | faults |",
        "|---|---:|---:|---:|---:|",
    ]
    for name, one in record["targets"].items():
        minutes = one["processor_seconds"] / 60
        lines.append(
            f"| {name} | {minutes:.1f} | {one['inputs']:,} | {one['kept']:,} | {len(one['faults'])} |"
        )
    faults = [(name, one) for name, line in record["targets"].items() for one in line["faults"]]
    if faults:
        lines += ["", "Faults that were found:", ""]
        lines += [
            f"- {name}, {one['day']}: {one['mended'] or 'open: `' + one['said'].replace('`', '') + '`'}"
            for name, one in faults
        ]
    return "\n".join(lines) + "\n"


def _artifacts(target: str) -> set[str]:
    place = ROOT / ".fuzz" / target
    # What libFuzzer calls slow is slow on the clock.
    return {one.name for one in place.glob("*-*") if not one.name.startswith("slow-")}


class Campaign:
    """Slices until the time is over, several at once."""

    def __init__(self, record: Path, until: float, seconds: int) -> None:
        self.path, self.until, self.seconds = record, until, seconds
        self.record = read(record)
        self.lock = Lock()
        self.busy: set[str] = set()
        self.resting: set[str] = set()
        self.running: dict[str, subprocess.Popen[str]] = {}
        self.stopped = Event()

    def work(self) -> None:
        """One slice after another, of the target that has had the least."""
        while True:
            with self.lock:
                free = [name for name in TARGETS if name not in self.busy | self.resting]
                if self.stopped.is_set() or not free or time.monotonic() >= self.until:
                    return
                target = min(free, key=lambda name: self.record["targets"][name]["processor_seconds"])
                self.busy.add(target)
            self._slice(target)

    def _slice(self, target: str) -> None:
        known = _artifacts(target)
        asked = ["--here", "--seconds", str(self.seconds)]
        command = [sys.executable, "-m", "tools.fuzz", target, *asked]
        with self.lock:
            if self.stopped.is_set():
                return
            run = subprocess.Popen(
                command,
                cwd=ROOT,
                env={**os.environ, CAMPAIGN: "1", "OMP_NUM_THREADS": "1"},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
            )
            self.running[target] = run
        assert run.stdout is not None
        said = run.stdout.read()
        _, status, used = os.wait4(run.pid, 0)
        run.returncode = os.waitstatus_to_exitcode(status)
        with self.lock:
            del self.running[target]
            self.busy.discard(target)
            if self.stopped.is_set():
                return
            line, new = self.record["targets"][target], sorted(_artifacts(target) - known)
            kept = len(list((ROOT / ".fuzz" / target / "found").glob("*")))
            add(line, said, used.ru_utime + used.ru_stime, new, kept)
            write(self.path, self.record)
            print(f"{datetime.now(UTC):%H:%M:%S} {target}: {line['processor_seconds']:.0f} s", flush=True)
            if run.returncode:
                self.resting.add(target)
                print(f"{target} rests: {', '.join(new) or f'exit code {run.returncode}'}", flush=True)
                (ROOT / ".fuzz" / target / "said").write_text(said, encoding="utf-8", errors="replace")

    def stop(self, *_: object) -> None:
        """No slice more, and none that runs is counted."""
        self.stopped.set()
        for run in list(self.running.values()):
            run.kill()


def main(arguments: list[str] | None = None) -> int:
    """1 where a target has a fault that is not mended."""
    parser = argparse.ArgumentParser(prog="python -m tools.campaign", description=__doc__)
    parser.add_argument("--seconds", type=float, default=0.0, help="of the clock")
    parser.add_argument("--slice", type=int, default=120, help="seconds that a target goes on at a time")
    parser.add_argument("--jobs", type=int, default=2, help="targets at once")
    parser.add_argument("--record", type=Path, default=RECORD)
    parser.add_argument("--page", action="store_true", help="write the page")
    given = parser.parse_args(arguments)
    campaign = Campaign(given.record, time.monotonic() + given.seconds, given.slice)
    signal.signal(signal.SIGTERM, campaign.stop)
    signal.signal(signal.SIGINT, campaign.stop)
    with ThreadPoolExecutor(given.jobs) as pool:
        for one in [pool.submit(campaign.work) for _ in range(given.jobs)]:
            one.result()
    if given.page:
        PAGE.write_text(page(campaign.record), encoding="utf-8")
    lines = campaign.record["targets"].values()
    return int(any(not fault["mended"] for line in lines for fault in line["faults"]))


if __name__ == "__main__":
    sys.exit(main())
