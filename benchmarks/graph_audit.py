"""How often the graph audit accuses honest networks: exports of torchvision's and timm's classifiers, and its time.

    python -m benchmarks.graph_audit EXPORTS [--build torchvision/resnet50 timm/levit_128 ...] [--seconds 50]

``--build`` exports networks with untrained weights at their own input size, traced, scripted and by torch's first ONNX
exporter, into the folder EXPORTS; a form that an exporter refuses is missing there. Then what lies there is audited,
for so many seconds of processor time; another call goes on where this one stopped. A file is *accused* where a rule is
met as an error, and *worth a look* where one is met below that. ``seconds``: of processor time, opening included.
"""

import argparse
import gzip
import json
import statistics
import time
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.common import write_result
from benchmarks.exports import network_of, onnx_file, scripted, traced
from formats import FormatError, Source, trace
from formats.kinds import tracer
from wiper_cli.graph.flow import Flow
from wiper_cli.graph.rules import audit
from wiper_cli.verdict import Severity

FORMS: dict[str, Callable[[nn.Module, Tensor], bytes]] = {
    "legacy.onnx": onnx_file,
    "scripted.pt": scripted,
    "traced.pt": traced,
}


def build(name: str, folder: Path) -> None:
    """``library/architecture`` in every form that can be had."""
    network, x = network_of(name)
    library, _, architecture = name.partition("/")
    for form, export in FORMS.items():
        path = folder / f"{library}+{architecture}.{form}.gz"
        if not path.exists():
            try:
                path.write_bytes(gzip.compress(export(network, x), 1))
            except Exception as error:  # each exporter refuses in its own words
                print(f"{path.name}: {type(error).__name__}")


def look(path: Path) -> dict[str, Any]:
    """What the audit says of one file."""
    source = Source(path.name.removesuffix(".gz"), gzip.decompress(path.read_bytes()))
    began = time.process_time()
    try:
        hits = {hit.rule: hit.severity.word for hit in audit(Flow(trace(source)))}  # type: ignore[arg-type]
    except FormatError as error:
        return {"file": source.name, "refused": str(error)[:200]}
    return {"file": source.name, "rules": hits, "seconds": round(time.process_time() - began, 2)}


def summary(found: list[dict[str, Any]]) -> dict[str, Any]:
    """Counts over all files that could be followed, and what was met where."""
    graphs = [one for one in found if "rules" in one]
    met = {one["file"]: one["rules"] for one in graphs if one["rules"]}
    errors = {word.word for word in Severity if word >= Severity.HIGH}
    accused = [name for name, rules in met.items() if errors & {*rules.values()}]
    noted = [name for name, rules in met.items() if {*rules.values()} == {"info"}]
    seconds = [one["seconds"] for one in graphs]
    return {
        "files": len(graphs),
        "networks": len({one["file"].split(".")[0] for one in graphs}),
        "files_by_form": Counter(one["file"].partition(".")[2] for one in graphs),
        "accused": accused,
        "worth_a_look": len(met) - len(accused) - len(noted),
        "worth_a_look_share": round((len(met) - len(accused) - len(noted)) / max(1, len(graphs)), 4),
        "rules": met,
        "refused": {one["file"]: one["refused"] for one in found if "refused" in one},
        "seconds": {"median": statistics.median(seconds), "greatest": max(seconds)},
        "seconds_resnet50": {one["file"]: one["seconds"] for one in graphs if "+resnet50." in one["file"]},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("exports", type=Path)
    parser.add_argument("--build", nargs="*", default=[])
    parser.add_argument("--seconds", type=float, default=1e9)
    asked = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    for kind in ("onnx", "torchscript"):
        tracer(kind)  # imports are not the audit's
    for name in asked.build:
        build(name, asked.exports)
    log = asked.exports / "audited.jsonl"
    log.touch()
    found = [json.loads(line) for line in log.read_text().splitlines()]
    done = {one["file"] for one in found}
    paths = [path for form in FORMS for path in sorted(asked.exports.glob(f"*.{form}.gz"))]
    until = time.process_time() + asked.seconds
    with log.open("a") as stream:
        for path in paths:
            if path.name.removesuffix(".gz") not in done and time.process_time() < until:
                found.append(look(path))
                print(json.dumps(found[-1]), file=stream, flush=True)
    print(f"{len(found)} of {len(paths)} files")
    if found:
        write_result("graph_audit", summary(found))


if __name__ == "__main__":
    main()
