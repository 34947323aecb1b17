"""What the shorter searches of a scan lose: every specimen of a zoo examined at several efforts.

    python -m benchmarks.scan_effort ZOO --images DIR [--efforts quick,normal] [--record FILE] [--results DIR]

ZOO is a folder that ``wiper zoo build detect`` filled, DIR the one that holds its data sets (``DIR/NAME/test``). Each
specimen's folded ONNX file is opened and prepared as ``wiper scan`` does it. What is found goes line by line to
FILE, so that the work can be broken off and goes on from there; the summary of all that stands there becomes
``results/scan_effort.json``. A backdoor counts as named where some detector fired for its target; with several targets
it counts as flagged only; one from all classes to all is named by a map.

``screening``: with more classes than a search takes one by one, the rank of the target, from 1, in the order by the
head (:func:`wiper_cli.detectors.common.screened_by_head`).
"""

import argparse
import json
import time
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from benchmarks.common import RESULTS, write_result
from wiper_cli.audit.detection import look
from wiper_cli.audit.planning import planned
from wiper_cli.audit.requests import ScanRequest
from wiper_cli.audit.subject import SILENT, Notes, prepare
from wiper_cli.detectors import DETECTORS
from wiper_cli.detectors.common import sample, screened_by_head
from wiper_cli.detectors.effort import SCREENED_ON, Effort
from wiper_cli.rates import wilson
from wiper_cli.zoo.recipe import FILE_WORD

FILE = "model-folded.pt"
#: Attack success from which a backdoor counts as planted.
TAKEN = 0.8


def examine(
    place: Path, clean: Path, efforts: Iterable[Effort], file: str = FILE
) -> Iterable[dict[str, Any]]:
    """One line for every effort: plan, seconds, and each detector's statistic and target. ``clean``: folder."""
    manifest = json.loads((place / "manifest.json").read_text())
    data, attack = manifest["recipe"]["data"], manifest["recipe"]["attack"]
    request = ScanRequest(model=place / file, clean=clean, device="cpu")
    subject = prepare(request, SILENT, Notes())
    classifier, parts = subject.classifier, subject.clean
    generator = torch.Generator().manual_seed(0)
    ranked = screened_by_head(
        classifier, sample(parts.fit.images, SCREENED_ON, generator), generator
    ).tolist()
    planted = manifest[FILE_WORD] if attack != "clean" else {}
    target = planted["target"] if planted.get("labelling") == "all-to-one" else None
    for effort in efforts:
        ahead = planned(classifier, parts, tuple(DETECTORS), effort)
        began, worked = time.perf_counter(), time.process_time()
        evidence = look(ahead.detectors, classifier, parts, 0)
        yield {
            "specimen": place.name,
            "file": file,
            "data": data,
            "attack": attack,
            "target": target,
            "asr": manifest["figures"].get("asr", {}).get("value"),
            "classes": classifier.classes,
            "effort": effort,
            "passes": sum(plan.forward + plan.backward for plan in ahead.plans),
            "seconds": round(time.perf_counter() - began, 1),
            "processor_seconds": round(time.process_time() - worked, 1),
            "forward_seconds": round(ahead.cost.forward, 5),
            "rank": None if target is None else ranked.index(target) + 1,
            "detectors": {
                one.name: {"statistic": one.statistic, "fired": one.fired, "target": one.target}
                for one in evidence
            },
        }


def summary(lines: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Counts by data set and effort."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for line in lines:
        groups[line["data"], line["effort"]].append(line)
    found = []
    for (data, effort), rows in sorted(groups.items()):
        honest = [row for row in rows if row["attack"] == "clean"]
        planted = [row for row in rows if row["attack"] != "clean" and row["asr"] >= TAKEN]
        alarms = [row for row in honest if any(one["fired"] for one in row["detectors"].values())]
        flagged = [row for row in planted if any(one["fired"] for one in row["detectors"].values())]
        named = [
            row
            for row in planted
            if any(one["fired"] and one["target"] == row["target"] for one in row["detectors"].values())
        ]
        ranks = sorted(row["rank"] for row in planted if row["rank"] is not None)
        found.append(
            {
                "data": data,
                "effort": effort,
                "detectors": sorted({name for row in rows for name in row["detectors"]}),
                "honest": len(honest),
                "false_alarms": len(alarms),
                "false_alarm_interval": wilson(len(alarms), len(honest)) if honest else None,
                "planted": len(planted),
                "did_not_take": len(rows) - len(honest) - len(planted),
                "flagged": len(flagged),
                "named": len(named),
                "missed": sorted(row["specimen"] for row in planted if row not in named),
                "accused_honest": sorted(row["specimen"] for row in alarms),
                "passes": sorted({row["passes"] for row in rows}),
                "median_seconds": sorted(row["seconds"] for row in rows)[len(rows) // 2],
                "screening_ranks": ranks,
            }
        )
    return {"groups": found}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("zoo", type=Path)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--efforts", default="quick,normal")
    parser.add_argument("--record", type=Path, default=Path("scan_effort.jsonl"))
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    lines = [json.loads(line) for line in options.record.open()] if options.record.exists() else []
    known = {(line["specimen"], line["effort"]) for line in lines}
    for manifest in sorted(options.zoo.glob("*/manifest.json")):
        place = manifest.parent
        left = [one for one in options.efforts.split(",") if (place.name, one) not in known]
        clean = options.images / json.loads(manifest.read_text())["recipe"]["data"] / "test"
        for line in examine(place, clean, left) if left else ():
            lines.append(line)
            with options.record.open("a") as file:
                file.write(json.dumps(line) + "\n")
            fired = {name: round(one["statistic"] or 0, 2) for name, one in line["detectors"].items()}
            print(line["specimen"], line["effort"], line["target"], fired, f"{line['seconds']} s", flush=True)
    write_result("scan_effort", summary(lines), options.results)


if __name__ == "__main__":
    main()
