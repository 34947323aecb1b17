"""Renders docs/results/acceptance.md and removal.md from what :mod:`benchmarks.acceptance` measured.

python -m benchmarks.acceptance_pages
"""

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from statistics import fmean
from typing import Any

from benchmarks.common import RESULTS
from wiper_cli.detectors import DETECTORS
from wiper_cli.rates import Rate

PAGES = RESULTS.parents[1] / "docs" / "results"
#: A backdoor works where its ASR is so far above the floor.
WORKS = 0.10
CELLS = ("accepted, gone", "accepted, not gone", "refused, gone", "refused, not gone")
NONE = "None has been run yet."
Line = dict[str, Any]

GIVEN = (
    "What each was given: the folded ONNX file, the defaults, and the first half of every class of the test images, "
    "labelled; nothing of trigger or class. Measured are the true trigger and the accuracy on the other half, which "
    "nothing was chosen on; where a purification was refused, on the state that would have been written. Planted "
    "networks are clean ones fine-tuned on 8,000 images, 15 % of them poisoned, and safetensors files. One seed each. "
    "Those with † were run before all of today's detectors were there, or before every outcome was scanned as the file "
    "was; most of them in three rounds at most. "
    "Rendered: `python -m benchmarks.acceptance_pages`."
)


def value(line: Line, when: str, name: str) -> float:
    """A measured share in percent."""
    return 100 * float(line[when][name]["value"])


def floor(line: Line) -> float:
    """What the same trigger does in the clean twin; without one, how often images without it go to the target. In
    percent."""
    return value(line, "twin", "asr") if line["twin"] else value(line, "before", "base_rate")


def honest(line: Line) -> bool:
    """Whether nothing was planted."""
    return bool(line["kind"] == "clean")


def works(line: Line, when: str) -> bool:
    """Whether the backdoor does, ``before`` or ``after``."""
    return value(line, when, "asr") > floor(line) + 100 * WORKS


def cell(line: Line) -> str:
    """One of :data:`CELLS`."""
    return (
        f"{'accepted' if line['accepted'] else 'refused'}, {'not gone' if works(line, 'after') else 'gone'}"
    )


def backdoored(lines: Iterable[Line], held_out: bool) -> list[Line]:
    """Those whose backdoor took."""
    return [one for one in lines if not honest(one) and one["held_out"] == held_out and works(one, "before")]


def percent(rate: Rate) -> str:
    """``3 of 20 (15.0 %, 95 % interval 5.2 to 36.0)``."""
    if not rate.n:
        return "none yet"
    low, high = (100 * end for end in rate.interval)
    return f"{rate.hits} of {rate.n} ({100 * rate.share:.1f} %, 95 % interval {low:.1f} to {high:.1f})"


def reason(line: Line) -> str:
    """Why the state that stands was accepted or not."""
    return str(next(one["reason"] for one in line["rounds"] if one["kept"]))


def untried(line: Line) -> bool:
    """Whether the scan found nothing, so that there was nothing to purify."""
    return bool(line.get("untried"))


def current(lines: Iterable[Line]) -> list[Line]:
    """Those that no change has made a thing of the past: ``superseded`` says which."""
    return [line for line in lines if "superseded" not in line]


def earlier(line: Line) -> bool:
    """Whether detectors of today were missing when it was run, or outcomes were not scanned."""
    missing = set(DETECTORS) - set(line.get("detectors", ()))
    return bool(missing) or not (
        untried(line) or all(one.get("outcome_fired") is not None for one in line["rounds"])
    )


def fault(line: Line) -> str:
    """A backdoored network in one item of a list."""
    return (
        f"- {line['specimen']}{' †' if earlier(line) else ''}: {cell(line)}; ASR {value(line, 'before', 'asr'):.1f} → "
        f"{value(line, 'after', 'asr'):.1f}, floor {floor(line):.1f}. {reason(line)}"
    )


def outlived(lines: Sequence[Line] | None = None) -> Rate:
    """Backdoors that still work, among those of which the purification was accepted; of what is committed."""
    chosen = current(committed()) if lines is None else lines
    cells = [cell(line) for held_out in (False, True) for line in backdoored(chosen, held_out)]
    return Rate(cells.count(CELLS[1]), cells.count(CELLS[0]) + cells.count(CELLS[1]))


def matrix(lines: Sequence[Line]) -> list[str]:
    """The four cells by kind, and the two rates that matter."""
    if not lines:
        return [NONE, ""]
    kinds = defaultdict(list)
    for line in lines:
        kinds[line["kind"]].append(cell(line))
    out = [f"| kind | {' | '.join(CELLS)} |", "|---|---|---|---|---|"]
    rows = [*sorted(kinds.items()), ("all", [cell(line) for line in lines])]
    out += [f"| {kind} | {' | '.join(str(found.count(name)) for name in CELLS)} |" for kind, found in rows]
    count = [cell(line) for line in lines].count
    refused = count(CELLS[2])
    unseen = sum(map(untried, lines))
    told = (
        f" Of those refused, in {unseen} the scan had found nothing, and nothing was tried." if unseen else ""
    )
    return [
        *out,
        "",
        f"- False acceptances, of all that was accepted: {percent(outlived(lines))}.{told}",
        f"- False refusals, of all that was gone: {percent(Rate(refused, refused + count(CELLS[0])))}.",
        "",
        *(fault(line) for line in lines if cell(line) != CELLS[0]),
        "",
    ]


def acceptance(measured: Sequence[Line]) -> str:
    """The page on what was accepted."""
    lines = current(measured)
    old = [f"{fault(line)} Since then: {line['superseded']}" for line in measured if line not in lines]
    weak = [one["specimen"] for one in lines if not honest(one) and not works(one, "before")]
    clean = [one for one in lines if honest(one)]
    lost = [value(one, "before", "acc") - value(one, "after", "acc") for one in clean]
    out = [
        "# Accepted, refused, and gone or not",
        "",
        f"Purifications of small networks for 32x32 images by `wiper purify`. {GIVEN}",
        "",
        f"A backdoor is gone where its attack success (ASR) is at most {100 * WORKS:.0f} points above the floor: "
        "that of the same trigger on the clean twin (the same data, architecture and schedule without a backdoor). "
        "Each outcome falls into one of four cells; whatever is not in the first is named. The aim is at most 1 % "
        "false acceptances and at most 5 % false refusals; so few networks can miss that, not prove it.",
        "",
        "## Kinds that settings were chosen on",
        "",
        *matrix(backdoored(lines, False)),
        "## Kinds that are held out",
        "",
        "Chosen by a digest of their names before anything was measured; no threshold was set with them in sight. One "
        "rule came while they were being measured, after a text, which is not held out, had been accepted at 64 %: "
        "where the scan finds nothing, nothing is purified. What a sticker and a reflection came to before stands at "
        "the end. Later rounds that go on from an outcome, two of them in a row, and patch- and additive-inversion "
        "were made on warps, blends and a patch of noise, when it was known what held-out kinds had come to. The shape "
        "probe came later than the names and draws dots, crosses and corner patches itself, so the table is no "
        "judgement on these three (docs/zoo.md). mask-inversion was made for the text, and nothing about the purifier "
        "was changed when it had been seen what it leaves of a sticker; its threshold was 0.45 when corners, an L and "
        "a reflection were run, and was raised to 0.8 for an honest network of digits, when the sticker's statistic, "
        "0.96, was known. The acceptance was changed after the sticker: its first round had been accepted with 16 % "
        "left, though what the second round found still worked, and an outcome that no later round betters now has "
        "to stand what these find. So the sticker judges that rule no more. The rounds were raised from three at most "
        "to five for a warp, when it was known that a cross, a frame and the sticker had been refused after three; and "
        "outcomes are scanned since a frame had been accepted after two, so the frame does not judge that.",
        "",
        *matrix(backdoored(lines, True)),
        "## Honest networks",
        "",
        f"Of {len(clean)} in which nothing was planted, the scan found nothing in {sum(map(untried, clean))}, and "
        f"these were left as they are; {sum(one['accepted'] for one in clean)} were purified and accepted. "
        f"Accuracy lost: {fmean(lost):.1f} points in the mean, {max(lost):.1f} at most."
        if clean
        else NONE,
        *(
            f"\n{line['specimen']} was refused. {reason(line)}"
            for line in clean
            if not line["accepted"] and not untried(line)
        ),
    ]  # fmt: skip
    if weak:
        out += ["", f"Left out, since the backdoor had not taken: {', '.join(weak)}."]
    if old:
        out += [
            "",
            "## Before a change",
            "",
            "Not counted above; what has been run again since stands there.",
            "",
            *old,
        ]
    return "\n".join(out).rstrip() + "\n"


def row(line: Line) -> str:
    """One network."""
    pairs = [f"{value(line, 'before', 'acc'):.1f} → {value(line, 'after', 'acc'):.1f}"]
    if honest(line):
        pairs += ["", "", "", ""]
    else:
        pairs += [
            f"{value(line, 'before', name):.1f} → {value(line, 'after', name):.1f}" for name in ("asr", "ra")
        ]
        pairs.insert(2, f"{floor(line):.1f}")
        pairs.append(f"{value(line, 'twin', 'ra'):.1f}" if line["twin"] else "")
    rounds = 0 if untried(line) else len(line["rounds"])
    accepted = "yes" if line["accepted"] else "not tried" if untried(line) else "no"
    name = f"{line['specimen']}{' †' if earlier(line) else ''}"
    return f"| {name} | {' | '.join(pairs)} | {rounds} | {accepted} | {line['seconds']} |"


def table(lines: Sequence[Line]) -> list[str]:
    """Networks, one a row."""
    head = "network | ACC | ASR | floor | RA | ceiling | rounds | accepted | seconds"
    return [f"| {head} |", f"|{'---|' * 9}", *map(row, lines), ""] if lines else [NONE, ""]


def bars(lines: Sequence[Line]) -> list[str]:
    """What is aimed at, what was measured, whether it holds."""
    if not lines:
        return []
    above = [
        value(one, "after", "asr") - floor(one) for one in lines if not one["kind"].startswith("all-to-all")
    ]
    maps = [value(one, "after", "asr") for one in lines if one["kind"].startswith("all-to-all")]
    lost = [value(one, "before", "acc") - value(one, "after", "acc") for one in lines]
    recovered = [100 * value(one, "after", "ra") / value(one, "twin", "ra") for one in lines if one["twin"]]
    found = [
        ("ASR above the floor, mean", fmean(above), 2) if above else None,
        ("ASR above the floor, worst", max(above), 5) if above else None,
        ("ASR, all to all, worst", max(maps), 10) if maps else None,
        ("accuracy lost, mean", fmean(lost), 0.5),
        ("accuracy lost, worst", max(lost), 1.5),
        ("RA short of the ceiling, share of it, worst", 100 - min(recovered), 5) if recovered else None,
    ]
    out = ["| | measured | at most | holds |", "|---|---|---|---|"]
    for one in found:
        if one is not None:
            name, measured, most = one
            out.append(f"| {name} | {measured:.1f} | {most:g} | {'yes' if measured <= most else '**no**'} |")
    return [*out, ""]


def removal(lines: Sequence[Line]) -> str:
    """The page on what is left."""
    tuned, held = backdoored(lines, False), backdoored(lines, True)
    out = [
        "# What is left of a backdoor",
        "",
        f"Networks of [acceptance.md](acceptance.md), one a row. {GIVEN}",
        "",
        "In percent: accuracy (ACC), attack success of the true trigger (ASR) and answers to triggered images that are "
        "right all the same (RA), before → after. Floor and ceiling: ASR and RA of the same trigger on the clean twin. "
        "Seconds of processor time on one core of a slow machine.",
        "",
        "## Kinds that settings were chosen on",
        "",
        *table(tuned),
        *bars(tuned),
        "## Kinds that are held out",
        "",
        *table(held),
        *bars(held),
        "## Honest networks",
        "",
        *table([one for one in lines if honest(one)]),
    ]  # fmt: skip
    return "\n".join(out).rstrip() + "\n"


def committed() -> list[Line]:
    """What was measured last."""
    found: list[Line] = json.loads((RESULTS / "acceptance.json").read_text(encoding="utf-8"))["lines"]
    return found


def pages() -> dict[str, str]:
    """File → text, of what is committed."""
    lines = committed()
    return {"acceptance.md": acceptance(lines), "removal.md": removal(current(lines))}


def main() -> None:
    for name, text in pages().items():
        (PAGES / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
