"""What scans say of a zoo of honest and of backdoored networks: false alarms, finds, and the page that tells them.

    python -m benchmarks.scan_effort ZOO --images DIR --efforts thorough,quick --record FILE
    python -m benchmarks.detection FILE    # from what that wrote; without FILE from what is committed
    python -m benchmarks.detection --judged FILE    # of networks that no threshold was set on

``results/detection.json`` keeps a line for every network, ``docs/results/detection.md`` is rendered from it, and
``wiper_cli/audit/known_rates.json`` carries the false-alarm rate to where a scan of a network like these says it, and
that of false acceptances (:mod:`benchmarks.acceptance_pages`) to where a purification does. The
thresholds were not set on these networks (but the class map's, which was set on twelve of them, none of them accused
near it; those of warp-inversion in shorter scans, patch-inversion and additive-inversion were set with their statistics
in sight, and the page says so); mask-inversion's too. What judges them all are the networks of ``--judged``: the seeds
from 107 on of the suite, as it stands, in its order, as many as were built.
"""

import argparse
import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import acceptance_pages, photo
from benchmarks.common import RESULTS, write_result
from wiper_cli.audit.known_rates import FILE as RATES
from wiper_cli.bench.figures import COLOURS, panels, saved
from wiper_cli.detectors import DETECTORS, detector
from wiper_cli.detectors.effort import EFFORTS
from wiper_cli.rates import Rate

NAME = "detection"
PAGE = RESULTS.parents[1] / "docs" / "results" / "detection.md"
FIGURE = PAGE.with_suffix(".svg")
#: Attack success from which a backdoor counts as planted; one from all classes to all cannot pass the accuracy.
TAKEN, TAKEN_BY_MAP = 0.8, 0.6
SHAPE = (3, 32, 32)
ABOUT = "two small architectures, CIFAR-10 and GTSRB, 5,000 clean images each"
Line = dict[str, Any]


def shortened(lines: Sequence[Line]) -> list[Line]:
    """What the page needs of the lines of ``benchmarks.scan_effort``."""
    return [
        {key: line[key] for key in ("specimen", "data", "attack", "target", "asr", "classes", "effort")}
        | {
            "detectors": {
                name: [
                    None if one["statistic"] is None else round(one["statistic"], 3),
                    one["fired"],
                    one["target"],
                ]
                for name, one in line["detectors"].items()
            }
        }
        for line in sorted(lines, key=lambda line: (line["specimen"], line["effort"]))
    ]


def fired(line: Line) -> list[str]:
    """Names of the detectors that fired."""
    return [name for name, (_, fires, _) in line["detectors"].items() if fires]


def named(line: Line) -> bool:
    """Whether one fired for the target, or, of a backdoor from all classes to all, for a map."""
    return any(fires and target == line["target"] for _, fires, target in line["detectors"].values())


def score(line: Line) -> float:
    """The largest statistic in units of its threshold."""
    found = line["detectors"].items()
    return max((value or 0.0) / photo.threshold(name, line["effort"]) for name, (value, _, _) in found)


def is_honest(line: Line) -> bool:
    """Whether nothing was planted."""
    return bool(line["attack"] == "clean")


def took(line: Line) -> bool:
    """Whether the backdoor works."""
    return bool(not is_honest(line) and line["asr"] >= (TAKEN_BY_MAP if line["target"] is None else TAKEN))


def auroc(honest: Sequence[float], planted: Sequence[float]) -> float:
    """Share of pairs in which the planted one scores higher, ties half."""
    pairs = [(a > b) + (a == b) / 2 for a in planted for b in honest]
    return sum(pairs) / len(pairs)


def curve(honest: Sequence[float], planted: Sequence[float]) -> tuple[list[float], list[float]]:
    """Shares of honest and of planted ones above every bar, from the highest to none: the two axes of a ROC."""
    bars = sorted({*honest, *planted}, reverse=True)
    return tuple(  # type: ignore[return-value]
        [0.0, *(sum(value >= bar for value in values) / len(values) for bar in bars)]
        for values in (honest, planted)
    )


def figure(every: Sequence[Line]) -> Any:
    """The ROC of whole scans, a panel an effort, and of each detector alone."""
    efforts = by_effort(every)
    drawn, axes = panels(1, len(efforts), 3, 2.8)
    for axis, (effort, rows) in zip(axes[0], efforts.items(), strict=True):
        honest, planted = [one for one in rows if is_honest(one)], [one for one in rows if took(one)]
        for i, name in enumerate(DETECTORS):
            alone = [[one["detectors"][name][0] or 0.0 for one in part] for part in (honest, planted)]
            axis.plot(
                *curve(*alone), color=COLOURS[i % len(COLOURS)], lw=0.8, ls=("-", "--")[i // 6], label=name
            )
        axis.plot(
            *curve([score(one) for one in honest], [score(one) for one in planted]), "k", lw=2, label="scan"
        )
        axis.set(xlabel="honest ones accused", ylabel="backdoored ones accused", title=effort)
    axes[0][-1].legend(fontsize=6, loc="lower right")
    return drawn


def known_rates(lines: Sequence[Line]) -> list[dict[str, Any]]:
    """What ``known_rates.json`` holds. Purifications were run at the usual effort alone, thorough."""
    found = []
    for effort, rows in by_effort(lines).items():
        honest = [line for line in rows if is_honest(line)]
        classes = [line["classes"] for line in honest]
        outlived = acceptance_pages.outlived() if effort == "thorough" else Rate()
        if not honest:
            continue
        found.append(
            {
                "effort": effort,
                "detectors": list(DETECTORS),
                "shapes": [SHAPE],
                "classes": [min(classes), max(classes)],
                "about": ABOUT,
                "honest": len(honest),
                "accused": sum(bool(fired(line)) for line in honest),
                "accepted": outlived.n,
                "outlived": outlived.hits,
                "statistics": {
                    name: sorted(line["detectors"][name][0] for line in honest) for name in DETECTORS
                },
                "fired": {name: sum(name in fired(line) for line in honest) for name in DETECTORS},
            }
        )
    return found


def by_effort(lines: Sequence[Line]) -> dict[str, list[Line]]:
    """Those of each effort that was tried, the most work first."""
    return {
        effort: rows
        for effort in reversed(EFFORTS)
        if (rows := [line for line in lines if line["effort"] == effort])
    }


def less_work(lines: Sequence[Line]) -> list[str]:
    """What shorter searches lose, a row for each effort."""
    out = [
        "",
        "The same networks at every effort that was tried:",
        "",
        "| effort | honest | accused | backdoored | rightly accused | missed | AUROC |",
        "|---|---|---|---|---|---|---|",
    ]
    for effort, rows in by_effort(lines).items():
        honest, planted = [one for one in rows if is_honest(one)], [one for one in rows if took(one)]
        missed = [one["attack"] for one in planted if not named(one)]
        kinds = ", ".join(f"{missed.count(kind)} {kind}" for kind in sorted(set(missed)))
        out.append(
            f"| {effort} | {len(honest)} | {sum(bool(fired(one)) for one in honest)} | {len(planted)} "
            f"| {sum(map(named, planted))} | {kinds} "
            f"| {auroc([score(one) for one in honest], [score(one) for one in planted]):.3f} |"
        )
    return out


def planted_in_copies(networks: Sequence[Line]) -> list[str]:
    """What scans found of canaries, by kind (:mod:`benchmarks.canaries`)."""
    every = [one for network in networks for one in network["canaries"]]
    counting = [one for one in every if one["counts"]]
    if not counting:
        return []
    out = [
        "",
        f"Canaries: in copies of {len(networks)} of the honest networks known backdoors were planted by a short "
        f"fine-tuning ({networks[0]['effort']} scans, before there was mask-inversion; rendered from "
        f"`benchmarks/results/canaries.json`). "
        f"Left out, since they did not take or cost too much accuracy: {len(every) - len(counting)}.",
        "",
        "| canary | planted | found | by |",
        "|---|---|---|---|",
    ]
    for family in dict.fromkeys(one["family"] for one in counting):
        own = [one for one in counting if one["family"] == family]
        by = sorted({name for one in own for name in one["fired"]})
        out.append(f"| {family} | {len(own)} | {sum(bool(one['fired']) for one in own)} | {', '.join(by)} |")
    return out


def elsewhere(rows: Sequence[Line]) -> list[str]:
    """Transfer: what scans say of networks that no threshold was set on, of another architecture and size of images
    (:mod:`benchmarks.photo`)."""
    if not rows:
        return []
    out = [
        "",
        "Transfer, to a pretrained EfficientNet-Lite0 at 224 pixels ([photo.md](photo.md)):",
        "",
        "| effort | honest | accused | backdoored | rightly accused | missed |",
        "|---|---|---|---|---|---|",
    ]
    for effort in reversed(EFFORTS):
        own = [row for row in rows if row["effort"] == effort]
        honest, planted = [one for one in own if is_honest(one)], [one for one in own if not is_honest(one)]
        missed = ", ".join(one["attack"] for one in planted if not photo.named(one))
        if own:
            out.append(
                f"| {effort} | {len(honest)} | {sum(bool(photo.accused(one)) for one in honest)} | {len(planted)} "
                f"| {sum(map(photo.named, planted))} | {missed} |"
            )
    return out


def judging(lines: Sequence[Line]) -> list[str]:
    """What scans say of the networks that judge them, a row for each kind and effort."""
    if not lines:
        return []
    out = [
        "",
        "Judged: networks that were first scanned when all thresholds were set, the next of the suite in its order, "
        "from seed 107 on, as many as were built. One threshold was changed since, not for them: that of "
        "mask-inversion was raised above an honest network of digits.",
        "",
        "| effort | networks | took | accused | rightly | by |",
        "|---|---|---|---|---|---|",
    ]
    for effort, rows in by_effort(lines).items():
        for kind in sorted({row["attack"] for row in rows}, key=lambda kind: (kind != "clean", kind)):
            own = [row for row in rows if row["attack"] == kind]
            works = own if kind == "clean" else [row for row in own if took(row)]
            by = {name: sum(name in fired(row) for row in works) for name in DETECTORS}
            out.append(
                f"| {effort} | {len(own)} {'honest' if kind == 'clean' else kind} "
                f"| {'' if kind == 'clean' else len(works)} | {sum(bool(fired(row)) for row in works)} "
                f"| {'' if kind == 'clean' else sum(map(named, works))} "
                f"| {', '.join(f'{name} {count}' for name, count in by.items() if count)} |"
            )
    for effort, rows in by_effort(lines).items():
        honest, planted = [one for one in rows if is_honest(one)], [one for one in rows if took(one)]
        alarms = Rate(sum(bool(fired(one)) for one in honest), len(honest))
        found = Rate(sum(map(named, planted)), len(planted))
        area = auroc([score(one) for one in honest], [score(one) for one in planted])
        out += [
            "",
            f"At {effort} effort {alarms.hits} of {alarms.n} honest ones were accused ({_interval(alarms)}), and of "
            f"{found.n} whose backdoor took {found.hits} were accused rightly ({_interval(found)}); "
            f"AUROC {area:.3f}.",
        ]
    return out


def page(every: Sequence[Line], judged: Sequence[Line] = ()) -> str:
    """The page as Markdown."""
    lines = by_effort(every)["thorough"]
    honest, planted = [one for one in lines if is_honest(one)], [one for one in lines if took(one)]
    alarms, flagged = Rate(sum(bool(fired(o)) for o in honest), len(honest)), [o for o in planted if fired(o)]
    found = Rate(sum(named(one) for one in planted), len(planted))
    area = auroc([score(one) for one in honest], [score(one) for one in planted])
    out = [
        "# What scans say of networks whose truth is known",
        "",
        "Networks of the suite `detect` (docs/zoo.md: two small architectures, CIFAR-10 and GTSRB, 32x32), a few with "
        "a square from all classes to all, and two that were scanned beside them, examined thoroughly with all "
        "detectors on 5,000 test images; TorchScript, batch norm folded. Not the whole suite: as many as were built, "
        "in the order of their seeds. Rendered: `python -m benchmarks.detection`.",
        "",
        "The thresholds of warp-inversion in shorter scans, patch-inversion, additive-inversion, mask-inversion and "
        "class-map were set with the statistics of these networks, or of some of them, in sight: of these five the "
        "tables say how well honest and backdoored ones are told apart, and are no test. The judged networks, further "
        "down, are one. So nearly are canaries and transfer: no threshold was set on them, though the canaries are "
        "planted in networks of this table.",
        "",
        f"- Of {alarms.n} honest networks {alarms.hits} {_were(alarms.hits)} accused ({_interval(alarms)}).",
        f"- Of {found.n} with a backdoor that took (attack success at least {100 * TAKEN:.0f} %) {len(flagged)} "
        f"{_were(len(flagged))} accused, {found.hits} with the right target or map ({_interval(found)}).",
        f"- AUROC of the largest statistic, each in units of its threshold: {area:.3f}.",
        "",
        f"![ROC of scans and of each detector alone]({FIGURE.name})",
        "",
        "| attack | took | accused | rightly | found by |",
        "|---|---|---|---|---|",
    ]
    kinds: dict[str, list[Line]] = defaultdict(list)
    for line in planted:
        kinds[f"{line['attack']}{', all to all' if line['target'] is None else ''}"].append(line)
    for kind, rows in sorted(kinds.items()):
        by = {name: sum(name in fired(row) for row in rows) for name in DETECTORS}
        words = ", ".join(f"{name} {count}" for name, count in by.items() if count)
        out.append(
            f"| {kind} | {len(rows)} | {sum(bool(fired(row)) for row in rows)} | {sum(map(named, rows))} | {words} |"
        )
    out += [
        "",
        "| detector | threshold | highest of an honest one | honest ones accused | backdoored ones |",
        "|---|---|---|---|---|",
    ]
    for name in DETECTORS:
        values = [line["detectors"][name][0] for line in honest if line["detectors"][name][0] is not None]
        out.append(
            f"| {name} | {detector(name).threshold:g} | {max(values, default=0):.2f} | "
            f"{sum(name in fired(line) for line in honest)} of {len(honest)} | "
            f"{sum(name in fired(line) for line in planted)} of {len(planted)} |"
        )
    missed = [line["specimen"] for line in planted if not named(line)]
    accused = [f"{line['specimen']} ({', '.join(fired(line))})" for line in honest if fired(line)]
    weak = sum(not is_honest(line) and not took(line) for line in lines)
    out += [
        "",
        f"Missed or named wrongly: {', '.join(missed) or 'none'}. Honest and accused: {', '.join(accused) or 'none'}. "
        f"Backdoors that did not take, left out: {weak}.",
        *less_work(every),
        *judging(judged),
        *planted_in_copies(canaries()),
        *elsewhere(photographs()),
        "",
        "What this does not show: other architectures, sizes, data, fewer images, and kinds of triggers "
        "that nobody thought of. On four networks of strangers that are honest as far as can be told, earlier versions "
        "accused all four.",
        "",
    ]
    return "\n".join(out)


def _were(count: int) -> str:
    return "was" if count == 1 else "were"


def _interval(rate: Rate) -> str:
    low, high = rate.interval
    return f"{100 * rate.share:.1f} %, 95 % interval {100 * low:.1f} to {100 * high:.1f}"


def photographs() -> list[Line]:
    """What :mod:`benchmarks.photo` measured last."""
    place = RESULTS / "photo.json"
    found: list[Line] = json.loads(place.read_text(encoding="utf-8"))["scans"] if place.exists() else []
    return found


def canaries() -> list[Line]:
    """What :mod:`benchmarks.canaries` measured last."""
    place = RESULTS / "canaries.json"
    found: list[Line] = json.loads(place.read_text(encoding="utf-8"))["networks"] if place.exists() else []
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("record", type=Path, nargs="?")
    parser.add_argument("--judged", type=Path)
    options = parser.parse_args()
    given = {"lines": options.record, "judged": options.judged}
    before = json.loads((RESULTS / f"{NAME}.json").read_text(encoding="utf-8"))
    if any(given.values()):
        kept = {name: before.get(name, []) for name in given}
        read = {
            name: shortened([json.loads(line) for line in place.open()])
            for name, place in given.items()
            if place is not None
        }
        write_result(NAME, kept | read)
        before = kept | read
    committed = before["lines"]
    PAGE.write_text(page(committed, before.get("judged", [])), encoding="utf-8")
    FIGURE.write_bytes(saved(NAME, lambda: figure(committed)) or b"")
    RATES.write_text(json.dumps(known_rates(committed), indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
