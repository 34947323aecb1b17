"""How weak a backdoor an acceptance still refuses, and which of its probes see it.

    python -m benchmarks.probe_power ZOO --root DATA --work DIR [--models DIR] [--only NAME,...] [--judge]

Of each network that :mod:`benchmarks.acceptance` purified in the folder DIR, weights are taken on the straight line
from those of the file to the outcome's, where the true trigger succeeds on 60, 30 and 15 % of the images that nothing
was chosen on, and at the outcome itself. Each is judged as ``wiper purify`` judges a first round, with the images that
it had: by what the scan of the file recovered, by the probes, and by a new scan. What was asked stays in DIR and is not
asked again.
Kinds that are held out need ``--judge``. The result is rendered as docs/results/probe-power.md; without arguments, that
alone.
"""

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from benchmarks.acceptance import Case, cases, halved, rates, requested, weights_of
from benchmarks.common import RESULTS, write_result
from formats import Edit
from formats.model import NewTensor
from formats.tensors import to_bytes
from wiper_cli.audit.detection import look_closely
from wiper_cli.audit.measure import Stamper, measure
from wiper_cli.audit.rounds import Finds, Look, Round
from wiper_cli.audit.stories.purify import judged, look_again, sampled
from wiper_cli.audit.stories.shared import plan_of, scan_of
from wiper_cli.audit.subject import SILENT, Notes, prepare
from wiper_cli.detectors import DETECTORS, PROBE_SEED_OFFSET, PROBES
from wiper_cli.detectors.evidence import Evidence
from wiper_cli.purifiers.contract import Purified
from wiper_cli.rates import Rate
from wiper_cli.zoo import datasets
from wiper_cli.zoo.holdouts import is_held_out

NAME = "probe_power"
PAGE = RESULTS.parents[1] / "docs" / "results" / "probe-power.md"
#: Attack success that is looked for on the way to the outcome, and how near is near enough.
LEVELS, NEAR = (0.6, 0.3, 0.15), 0.03
#: Halvings of the way.
HALVINGS = 10


@dataclass(frozen=True)
class Way:
    """The straight line from the weights of a file, at 0, to an outcome's, at 1."""

    first: Mapping[str, Tensor]
    last: Mapping[str, Tensor]
    dtypes: Mapping[str, str]

    def at(self, share: float) -> Edit:
        """The weights there, as an edit of the file."""
        return Edit(
            {
                name: NewTensor(
                    self.dtypes[name], tuple(end.shape), to_bytes(torch.lerp(self.first[name], end, share))
                )
                for name, end in self.last.items()
            }
        )


def way(case: Case, outcome: Path) -> Way:
    """From the file of ``case`` to the weights that ``outcome`` holds."""
    model, last = case.model_opened(), load_file(outcome)
    stored = model.named() | model.statistics()
    dtypes = {name: model.manifest.tensors[name].dtype for name in last}
    return Way({name: stored[name].detach() for name in last}, last, dtypes)


def on_the_way(case: Case, line: Way, test: datasets.Images, classes: int) -> Iterator[tuple[str, float]]:
    """``(level, share of the way)``; a level that the way does not come near is left out."""

    def success(share: float) -> float:
        value: float = rates(case.opened(case.model, line.at(share)), case, test, classes)["asr"]["value"]
        return value

    for level in LEVELS:
        low, high = 0.0, 1.0
        best = min((abs(success(end) - level), end) for end in (low, high))
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            found = success(middle)
            best = min(best, (abs(found - level), middle))
            low, high = (middle, high) if found > level else (low, middle)
            if best[0] < NEAR / 3:
                break
        if best[0] <= NEAR:
            yield f"{100 * level:.0f} %", best[1]
    yield "outcome", 1.0


def asked(case: Case, root: Path, work: Path) -> dict[str, Any]:
    """What the probes say on the way to one outcome."""
    place = halved(case.recipe.data, root, work)
    test, classes = datasets.load_test(str(place))
    request = requested(case, place / "train")
    subject = prepare(request, SILENT, Notes(), salience=False)
    ahead = plan_of(request, subject)
    assert ahead is not None
    classifier, clean, served, seed = subject.classifier, subject.clean, subject.served, request.seed
    found = scan_of(request, subject, SILENT, Notes(), ahead)
    finds = sampled(request, classifier, subject, ahead, Finds().scanned(found), seed, SILENT, Notes())
    look = Look(found, finds)
    line = way(case, weights_of(work, case))
    levels: dict[str, Any] = {}
    for level, share in on_the_way(case, line, test, len(classes)):
        edit = line.at(share)
        edited = classifier.with_edit(edit)
        probes = look_closely(ahead.probes(finds.accused), edited, clean, seed + PROBE_SEED_OFFSET)
        again = look_again(request, subject, ahead, edited, look, probes, 1, SILENT, Notes())
        chosen = [Stamper.recovered(one) for one in again.finds.measured]
        before = measure(served, clean.report, chosen, opened=classifier)
        after = measure(served.with_edit(edit), clean.report, chosen, opened=edited)
        one = judged(request, Round(look, again, Purified(edit), edit, before, after, probes))
        succeeds: dict[bool, list[float]] = {True: [], False: []}
        for find, trigger in zip(again.finds.measured, after.triggers, strict=True):
            succeeds[any(find is old for old in finds.measured)].append(trigger.asr.share)
        levels[level] = {
            "share": share,
            **rates(case.opened(case.model, edit), case, test, len(classes)),
            "accepted": one.accepted,
            "reason": one.reason,
            "recovered": max(succeeds[True], default=None),
            "anew": max(succeeds[False], default=None),
            "probes": _told(probes),
            "scan": _told(again.found.evidence),
        }
    return {
        "specimen": case.name,
        "kind": case.kind,
        "held_out": is_held_out(case.recipe),
        "target": case.recipe.poisoned().target,
        "levels": levels,
    }


def _told(evidence: Sequence[Evidence]) -> dict[str, Any]:
    """Of what ran: statistic, whether it fired, and for which class."""
    return {
        one.name: {"statistic": round(float(one.statistic), 4), "fired": one.fired, "target": one.target}
        for one in evidence
        if one.ran and one.statistic is not None
    }


def seen(level: Mapping[str, Any], target: int, by: str) -> bool:
    """Whether ``by``, a probe or a detector of the new scan, fired for the true target or for no class."""
    one = (level["probes"] | level["scan"]).get(by)
    return one is not None and one["fired"] and one["target"] in (target, None)


def counted(lines: list[dict[str, Any]], level: str, by: str | None = None) -> Rate:
    """In how many networks a backdoor of that strength was seen by a probe or a detector; without one, refused."""
    there = [(one["levels"][level], one["target"]) for one in lines if level in one["levels"]]
    found = [seen(one, target, by) if by else not one["accepted"] for one, target in there]
    return Rate(sum(found), len(found))


def greatest(share: float | None) -> str:
    """In percent; a dash where nothing was recovered."""
    return "–" if share is None else f"{100 * share:.1f}"


def page(lines: list[dict[str, Any]]) -> str:
    """A table of probes by strength, and one of networks."""
    levels = [*(f"{100 * level:.0f} %" for level in LEVELS), "outcome"]
    text = [
        "# What an acceptance still refuses",
        "",
        "Made by `python -m benchmarks.probe_power` from `benchmarks/results/probe_power.json`.",
        "",
        "Weights on the straight line from a backdoored network to what `wiper purify` made of it, where the true "
        "trigger succeeds on 60, 30 and 15 % of the images, and the outcome itself, were judged as a first round is: "
        "by what the scan of the file recovered, by probes that look for the classes that the scan accused, and by a "
        "new scan. The first row is how many the acceptance refuses, the others how many each probe, and each detector "
        "of the new scan, sees for the right class. Small networks for "
        "32x32 images ([acceptance.md](acceptance.md)), one outcome each. A backdoor that was weakened so may differ "
        "from one that survives an unlearning: nothing was unlearned here, so what was recovered weakens as the "
        "backdoor does.",
        "",
        "| | " + " | ".join(levels) + " |",
        "|---|" + "---:|" * len(levels),
    ]
    for by in (None, *PROBES, *DETECTORS):
        cells = [counted(lines, level, by) for level in levels]
        shown = " | ".join(f"{one.hits} of {one.n}" for one in cells)
        text.append(f"| {by or '**refused**'} | {shown} |")
    text += [
        "",
        "What was recovered from the file before, and anew by the scan, and works best still:",
        "",
        "| network | ASR | recovered before | anew | what fires for the right class | judged |",
        "|---|---:|---:|---:|---|---|",
    ]
    for one in lines:
        for level in (level for level in levels if level in one["levels"]):
            found = one["levels"][level]
            fired = [name for name in (*PROBES, *DETECTORS) if seen(found, one["target"], name)]
            cells = [
                one["specimen"],
                greatest(found["asr"]["value"]),
                greatest(found["recovered"]),
                greatest(found["anew"]),
                ", ".join(fired) or "silent",
                "accepted" if found["accepted"] else "refused",
            ]
            text.append(f"| {' | '.join(cells)} |")
    return "\n".join(text) + "\n"


def committed() -> list[dict[str, Any]]:
    """The lines of the committed result."""
    lines: list[dict[str, Any]] = json.loads((RESULTS / f"{NAME}.json").read_text())["lines"]
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("zoo", type=Path, nargs="?")
    parser.add_argument("--root", type=Path)
    parser.add_argument("--work", type=Path)
    parser.add_argument("--models", type=Path)
    parser.add_argument("--only", default="")
    parser.add_argument("--judge", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.zoo:
        kept = options.work / NAME
        kept.mkdir(exist_ok=True)
        for case in cases(options.zoo, options.models):
            wanted = any(word in case.name for word in options.only.split(","))
            single = case.trigger is not None and case.recipe.poisoned().labelling == "all-to-one"
            place = kept / f"{case.name}.json"
            allowed = options.judge or not is_held_out(case.recipe)
            if (
                wanted
                and single
                and allowed
                and not place.exists()
                and weights_of(options.work, case).exists()
            ):
                place.write_text(json.dumps(asked(case, options.root, options.work), indent=1) + "\n")
                print(case.name, flush=True)
        write_result(NAME, {"lines": [json.loads(one.read_text()) for one in sorted(kept.glob("*.json"))]})
    PAGE.write_text(page(committed()))


if __name__ == "__main__":
    main()
