"""What four public scanners and the gate say of the hostile files of the tests, and of honest ones.

    python -m benchmarks.scanners --python PYTHON [--honest FOLDER] [--seconds N]

PYTHON: of an environment with picklescan, modelscan, fickling and modelaudit, as far as they can be had; wiper needs
none of them. The hostile files are those of tests/corpus, made for our gate and not for theirs: many hold no pickle
that runs anything, but break a format, or exhaust or mislead a reader. Each scanner is asked through its own Python
interface, one file at a time. "flagged": an issue (of modelaudit, a warning at least); "failed": an exception, or a
scan that the scanner itself calls incomplete. A slow scanner is asked for as many files, in an order drawn by chance,
as the time allows; only those are counted for it.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.common import write_result
from formats import FormatError, Hostile, inspect, read_source
from formats.kinds import recognised

ROOT = Path(__file__).resolve().parent.parent
ENDING = {"safetensors": ".safetensors", "torchscript": ".pt", "onnx": ".onnx", None: ".bin"}

#: Runs in the scanners' environment: names of files on stdin, one JSON line for each scanner.
DRIVER = """
import contextlib, importlib.metadata, io, json, random, sys, time, warnings
warnings.simplefilter("ignore")
files = sys.stdin.read().split("\\n")
random.Random(0).shuffle(files)

def picklescan(path):
    from picklescan.scanner import scan_file_path
    found = scan_file_path(path)
    return "flagged" if found.issues_count else "failed" if found.scan_err else "silent"

def modelscan(path):
    from modelscan.modelscan import ModelScan
    found = ModelScan().scan(path)
    return "flagged" if found["summary"]["total_issues"] else "failed" if found["errors"] else "silent"

def fickling(path):
    from fickling import is_likely_safe
    return "silent" if is_likely_safe(path) else "flagged"

def modelaudit(path):
    from modelaudit.core import scan_model_directory_or_file
    found = scan_model_directory_or_file(path)
    severity = {str(getattr(one.severity, "value", one.severity)) for one in found.issues}
    return "flagged" if severity & {"warning", "critical"} else "failed" if not found.success else "silent"

for scan in (picklescan, modelscan, fickling, modelaudit):
    try:
        version = importlib.metadata.version(scan.__name__)
    except importlib.metadata.PackageNotFoundError:
        continue
    said, until = {}, time.monotonic() + float(sys.argv[1])
    for path in files:
        if time.monotonic() > until:
            break
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            try:
                said[path] = scan(path)
            except Exception:
                said[path] = "failed"
    print(json.dumps([scan.__name__, version, said]), flush=True)
"""


def gate(path: Path) -> str:
    """``flagged`` for a rule, ``failed`` for what is no file that can be judged or opened."""
    try:
        inspect(read_source(path))
    except Hostile:
        return "flagged"
    except FormatError:
        return "failed"
    return "silent"


def written(folder: Path, honest: Path | None) -> dict[str, list[Path]]:
    """Group → files: the hostile ones by table, and the honest ones."""
    sys.path[:0] = [str(ROOT), str(ROOT / "tests/shared")]
    from tests.corpus.cases import cases

    groups: dict[str, list[Path]] = {}
    for number, (name, case) in enumerate(cases().items()):
        table = name.partition(":")[0]
        if table == "beside":  # what is wrong is not in the file
            continue
        path = folder / str(number) / f"m{ENDING[recognised(case.data)]}"
        path.parent.mkdir()
        for called, data in {**case.beside, path.name: case.data}.items():
            (path.parent / called).write_bytes(data)
        groups.setdefault(table, []).append(path)
    given = [*(ROOT / "examples/digits").iterdir(), *(honest.rglob("*") if honest else ())]
    groups["honest"] = [path for path in given if path.suffix in ENDING.values() and path.is_file()]
    return groups


def counted(groups: Mapping[str, list[Path]], said: Mapping[str, str]) -> dict[str, Any]:
    return {
        group: dict(Counter(said[str(path)] for path in paths if str(path) in said))
        for group, paths in groups.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--python", required=True, help="of the scanners' environment")
    parser.add_argument("--honest", type=Path, help="a folder of honest models, beside the example's three")
    parser.add_argument("--seconds", type=int, default=3600, help="for each scanner")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        groups = written(Path(folder), given.honest)
        paths = [path for group in groups.values() for path in group]
        done = subprocess.run(
            [given.python, "-c", DRIVER, str(given.seconds)], input="\n".join(map(str, paths)),
            stdout=subprocess.PIPE, text=True, check=True, cwd=folder,
            env={**os.environ, "PYTHONPATH": "", "PROMPTFOO_DISABLE_TELEMETRY": "1"},
        )  # fmt: skip
        tools = {"wiper": {"said": counted(groups, {str(path): gate(path) for path in paths})}}
        for line in done.stdout.splitlines():
            name, version, said = json.loads(line)
            tools[name] = {"version": version, "said": counted(groups, said)}
    files = {group: len(found) for group, found in groups.items()}
    write_result("scanners", {"files": files, "tools": tools})


if __name__ == "__main__":
    main()
