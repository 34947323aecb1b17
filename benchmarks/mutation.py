"""Whether the tests would notice a fault in what writes a file and in what judges a model. For the night.

    pip install mutmut && nice -n 15 python -m benchmarks.mutation [--only PATH...] [--jobs N]

Each mutant is one small fault; the tests named here must fail on it. A mutant that none fails on needs a better
test, or a reason in the result file why it is no fault. Exits 1 while one has neither; a run keeps the reasons.
"""

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.common import RESULTS, write_result

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("formats", "triggers", "wiper_cli")
#: What is mutated, and the tests that have to notice.
TARGETS = {
    "formats/ranges.py": ["tests/formats/test_ranges.py", "tests/formats/test_write.py"],
    "formats/write.py": ["tests/formats/test_write.py"],
    "wiper_cli/rates.py": ["tests/wiper_cli/test_rates.py"],
    "wiper_cli/audit/acceptance.py": ["tests/wiper_cli/audit/test_acceptance.py"],
    "wiper_cli/audit/judgement.py": ["tests/wiper_cli/audit/test_judgement.py"],
    "wiper_cli/audit/measure.py": ["tests/wiper_cli/audit/test_measure.py"],
}


def mutate(path: str, tests: list[str], jobs: int) -> tuple[int, list[dict[str, str]]]:
    """How many mutants of one file the tests killed, and what the others changed: ``{function, from, to}``."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        for name in (*PACKAGES, "tests", "examples"):
            shutil.copytree(ROOT / name, place / name, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", place)
        settings = {
            "source_paths": PACKAGES,
            "only_mutate": [path],
            "also_copy": ["examples"],
            "pytest_add_cli_args_test_selection": tests,
        }
        lines = ["[mutmut]", *("\n    ".join([f"{key} =", *value]) for key, value in settings.items())]
        (place / "setup.cfg").write_text("\n".join(lines) + "\n")

        def mutmut(*arguments: str) -> str:
            command = [sys.executable, "-m", "mutmut", *arguments]
            done = subprocess.run(command, cwd=place, capture_output=True, text=True, check=False)
            if done.returncode:
                sys.exit(f"{path}: {done.stdout[-2000:]}{done.stderr[-2000:]}")
            return done.stdout

        mutmut("run", "--max-children", str(jobs))
        states = dict(re.findall(r"^ +(\S+): (.+)$", mutmut("results", "--all", "true"), re.MULTILINE))
        left = [name for name, state in states.items() if state not in ("killed", "timeout")]
        return len(states) - len(left), [_change(name, mutmut("show", name)) for name in left]


def _change(name: str, diff: str) -> dict[str, str]:
    old, new = (" ".join(re.findall(rf"^\{sign}(?!\{sign}) *(.*)$", diff, re.MULTILINE)) for sign in "-+")
    function = (
        name.rpartition(".")[2].partition("__mutmut_")[0].removeprefix("x_").lstrip("xǁ").replace("ǁ", ".")
    )
    return {"function": function, "from": old, "to": new}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="+", default=list(TARGETS), choices=list(TARGETS), metavar="PATH")
    parser.add_argument("--jobs", type=int, default=1)
    options = parser.parse_args()
    found = {path: mutate(path, TARGETS[path], options.jobs) for path in options.only}
    stored = RESULTS / "mutation.json"
    files: dict[str, Any] = json.loads(stored.read_text())["files"] if stored.exists() else {}
    unexplained = 0
    for path, (killed, changes) in found.items():
        before = files.get(path, {"survived": []})["survived"]
        reasons = {(one["function"], one["from"], one["to"]): one["reason"] for one in before}
        survived = [{**change, "reason": reasons.get(tuple(change.values()), "")} for change in changes]
        files[path] = {"killed": killed, "survived": survived}
        for one in survived:
            if not one["reason"]:
                unexplained += 1
                print(f"{path}: {one['function']}\n  - {one['from']}\n  + {one['to']}", file=sys.stderr)
    write_result("mutation", {"files": {path: files[path] for path in TARGETS if path in files}})
    return 1 if unexplained else 0


if __name__ == "__main__":
    sys.exit(main())
