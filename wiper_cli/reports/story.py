"""What every human report tells: verdict, numbers, findings, what was not done, how to repeat it."""

import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from wiper_cli.reports.plain import Report, fact, label, number, percent, plain, seconds, size, words
from wiper_cli.verdict import ExitCode

#: Outcome → word and sign; the sign's shape alone tells them apart. The first four are the verdicts; what a
#: purification came to, or an inspection, stands above the verdict on the original.
OUTCOMES: Mapping[str, tuple[str, str]] = {
    "no_finding": ("No finding", "○"),
    "suspicious": ("Suspicious", "▲"),
    "malicious": ("Malicious", "■"),
    "incomplete": ("Incomplete", "◇"),
    "purified": ("Purified", "●"),
    "rejected": ("Not purified", "▲"),
    "measured": ("Measured", "○"),
    "inspected": ("Inspected", "○"),
}

#: Severity → sign.
SEVERITIES: Mapping[str, str] = {"critical": "■", "high": "▲", "medium": "◆", "low": "●", "info": "○"}

_RANK = tuple(SEVERITIES)

#: Said with an explanation.
EXPLAINED = (
    "For reading only: the verdict does not use it. Whatever differs from the clean images moves some units, in honest "
    "models too."
)

#: Rows of a table; what is beyond is in the JSON.
ROWS = 60

#: Said under every report.
LIMIT = "No finding does not show that a model has no backdoor; no test of a trained network can."

Row = tuple[str, str]


@dataclass(frozen=True)
class Rate:
    """A share with its interval, as measured on ``n`` images; what was not measured is ``None``."""

    value: float
    low: float | None = None
    high: float | None = None
    n: int | None = None

    @property
    def text(self) -> str:
        """``93.1% [90.5–95.0], n = 500``."""
        interval = f" {self.interval}" if self.interval else ""
        return percent(self.value) + interval + ("" if self.n is None else f", n = {self.n:,}")

    @property
    def interval(self) -> str:
        """``[90.5–95.0]`` in percent; empty when there is none."""
        return (
            "" if self.low is None or self.high is None else f"[{100 * self.low:.1f}–{100 * self.high:.1f}]"
        )


@dataclass(frozen=True)
class Measure:
    """One of the three numbers. ``base``: what a model without the backdoor would show, where measured."""

    name: str
    before: Rate | None
    after: Rate | None = None
    base: Rate | None = None
    note: str = ""


def rate(value: Mapping[str, Any] | None) -> Rate | None:
    """From the report's ``{value, n, interval}``; ``None`` when it was not measured."""
    if not value or value["value"] is None:
        return None
    low, high = value.get("interval") or (None, None)
    return Rate(value["value"], low, high, value.get("n"))


def class_name(report: Report, index: int | None) -> str:
    """``class 0 (airplane)``; only the number where the name says no more."""
    if index is None:
        return "no class"
    names = (report.get("model") or {}).get("classes") or []
    name = plain(names[index], 40) if 0 <= index < len(names) else ""
    return f"class {index} ({name})" if name and name != str(index) else f"class {index}"


def led(report: Report, trigger: Mapping[str, Any]) -> str:
    """Where a trigger sends images."""
    target = trigger.get("target")
    return "another class each" if target is None else class_name(report, target)


def outcome(report: Report) -> str:
    """The key of :data:`OUTCOMES` that heads the report."""
    purification = report.get("purification")
    if purification:
        return "purified" if purification["accepted"] else "rejected"
    if report["verdict"] == "no_finding" and report["command"] in ("inspect", "verify"):
        return "inspected" if report["command"] == "inspect" else "measured"
    return str(report["verdict"])


def read(report: Report) -> bool:
    """Whether there is more to tell than that there was nothing to examine, such as no file of this name."""
    return bool(report["exit_code"] != ExitCode.USAGE or report["findings"] or report["model"].get("sha256"))


def sentence(report: Report) -> str:
    """The verdict's sentence without the verdict's word, which stands above it anyway."""
    said = plain(report["sentence"])
    head, colon, rest = said.partition(": ")
    return rest[:1].upper() + rest[1:] if colon and head == OUTCOMES[outcome(report)][0] and rest else said


def asides(report: Report) -> list[str]:
    """What stands under the verdict's sentence, where there is anything."""
    return [text for text in (cached(report), suppression(report), changed(report)) if text]


def changed(report: Report) -> str:
    """How the result differs from an earlier one in a sentence; empty where it was not compared."""
    found = report.get("changes")
    if not found:
        return ""
    if not found["since"]:
        return f"{plain(found['file'], 200)} has no report of this model to compare with."
    before, after = (_verdict(found["verdict"][when]) for when in ("before", "after"))
    verdict = (
        f"the verdict is still {after}" if before == after else f"the verdict was {before} and is {after}"
    )
    other = " of other bytes" if any(fact["what"] == "model" for fact in found["facts"]) else ""
    count = f"findings: {len(found['new'])} new, {len(found['gone'])} gone"
    return f"Since the report{other} of {plain(found['since'], 40)} {verdict}; {count}."


def change_rows(report: Report) -> list[Row]:
    """What is other than in an earlier report: findings, statistics, and what else differs."""
    found = report.get("changes")
    if not found or not found["since"]:
        return []
    rows = [
        (word, f"{one['severity']} {plain(one['rule'], 40)}: {plain(one['message'], 300)}")
        for word, key in (("new", "new"), ("gone", "gone"))
        for one in found[key]
    ]
    for one in found["detectors"]:
        before, after = (number(one[when]) for when in ("before", "after"))
        fired = [" (fired)" if one["fired"][when] else "" for when in ("before", "after")]
        same = before == after and fired[0] == fired[1]
        rows.append(
            (
                plain(one["name"], 80),
                f"{before}{fired[0]}" + (", as before" if same else f" → {after}{fired[1]}"),
            )
        )
    return rows + [
        (plain(fact["what"], 80), f"{plain(fact['before'], 80)} → {plain(fact['after'], 80)}")
        for fact in found["facts"]
    ]


def _verdict(value: str) -> str:
    word = OUTCOMES.get(value, (value, ""))[0]
    return f"'{plain(word.lower(), 40)}'"


def answered_for(report: Report) -> bool:
    """Whether somebody answers for every finding that would have failed the run, and there is one."""
    grave = [one for one in report["findings"] if one["severity"] in ("critical", "high")]
    spared = report["exit_code"] == ExitCode.OK
    return spared and bool(grave) and all("suppressed" in one for one in grave)


def suppression(report: Report) -> str:
    """How many findings somebody answers for, and which entries of that file do nothing; empty without such a file."""
    found = report.get("suppression")
    if not found:
        return ""
    said = f"{found['suppressed']} suppressed by {plain(found['file'], 200)}, {len(found['expired'])} expired"
    for word in ("expired", "unused"):
        which = ", ".join(
            f"{plain(one['rule'], 40)} in {plain(one['model'], 12)} until {plain(one['expires'], 10)} "
            f"({plain(one['owner'], 60)})"
            for one in found[word][:5]
        )
        more = f" and {len(found[word]) - 5} more" if len(found[word]) > 5 else ""
        said += f"; {word}: {which}{more}" if which else ""
    return f"Findings: {said}."


def suppressed(finding: Mapping[str, Any]) -> str:
    """Why a finding does not count, who says so and until when; empty as a rule."""
    found = finding.get("suppressed")
    if not found:
        return ""
    return (
        f"until {plain(found['expires'], 10)} by {plain(found['owner'], 80)}: {plain(found['reason'], 400)}"
    )


def cached(report: Report) -> str:
    """Which part of the result an earlier scan had found, and when; empty as a rule."""
    found = report.get("cached")
    if not found:
        return ""
    made = plain(found["made"], 40)
    if found["whole"]:
        return (
            f"From the cache: this is what the scan of {made} found in the same bytes with the same images and "
            "settings. Only the static checks were run anew; --no-cache repeats all."
        )
    return f"Resumed: {words(found['detectors'])} had been run by a scan of {made} that was broken off."


def title(detector: Mapping[str, Any]) -> str:
    """What the detector is called, as the start of a line."""
    said = plain(detector["title"], 200)
    return said[:1].upper() + said[1:]


def measures(report: Report) -> tuple[Measure, ...]:
    """The three numbers: from the verification where there is one, else what a scan knows."""
    verification = report.get("verification") or {}
    before, after = verification.get("before"), verification.get("after")
    if not before:
        return tuple(_scanned(report))
    found = [Measure("Clean accuracy", rate(before["acc"]), rate(after["acc"]) if after else None)]
    chosen = headline_trigger(before)
    if chosen:
        index, trigger = chosen
        twin = _twin(trigger, index, after)
        about = f"{named(trigger)} → {led(report, trigger)}"
        base = rate(trigger.get("base_rate"))
        found.append(Measure("Trigger's success", rate(trigger["asr"]), rate(twin.get("asr")), base, about))
        found.append(
            Measure("Accuracy under the trigger", rate(trigger.get("ra")), rate(twin.get("ra")), None, about)
        )
    return tuple(measure for measure in found if measure.before or measure.after)


def asked(report: Report) -> str:
    """How the numbers were measured; empty where the report does not say."""
    how = ((report.get("verification") or {}).get("before") or {}).get("asked") or {}
    if not how.get("runtime"):
        return ""
    alone = (
        f", {number(how['one_by_one'])} of each trigger's one by one as well" if how.get("one_by_one") else ""
    )
    return f"Measured by {plain(how['runtime'], 40)}, in batches of {number(how.get('batch'))} images{alone}."


def named(trigger: Mapping[str, Any]) -> str:
    """``recovered square``, ``built-in blend``, ``known trigger``."""
    if trigger["origin"] == "known":
        return "known trigger"
    return f"{trigger['origin']} {plain(trigger['family'], 40)}"


def headline_trigger(before: Mapping[str, Any]) -> tuple[int, Mapping[str, Any]] | None:
    """(index, trigger) with the greatest success on the original file."""
    measured = [(index, trigger) for index, trigger in enumerate(before["triggers"]) if rate(trigger["asr"])]
    return max(measured, key=lambda pair: pair[1]["asr"]["value"], default=None)


def pairs(report: Report) -> list[tuple[Mapping[str, Any], Mapping[str, Any]]]:
    """Every trigger measured before, with its twin after (empty when there is none)."""
    verification = report.get("verification") or {}
    before, after = verification.get("before") or {"triggers": []}, verification.get("after")
    return [(trigger, _twin(trigger, index, after)) for index, trigger in enumerate(before["triggers"])]


def _twin(trigger: Mapping[str, Any], index: int, after: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """The same trigger among those measured after: all that names it agrees, else family and position do."""

    def key(entry: Mapping[str, Any]) -> str:
        named = [entry["family"], entry["origin"], entry.get("target"), entry.get("parameters")]
        return json.dumps(named, sort_keys=True)

    others = after["triggers"] if after else []
    same = [other for other in others if key(other) == key(trigger)]
    at_index = [other for other in others[index : index + 1] if other["family"] == trigger["family"]]
    none: Mapping[str, Any] = {}
    return next(iter(same + at_index), none)


def _scanned(report: Report) -> Iterator[Measure]:
    accuracy = (report.get("clean") or {}).get("accuracy")
    if accuracy is not None:
        yield Measure("Clean accuracy", Rate(accuracy))
    best: Measure | None = None
    for detector in all_detectors(report):
        trigger = detector.get("trigger") or {}
        success = (trigger.get("facts") or {}).get("success")
        if isinstance(success, (int, float)) and 0 <= success <= 1:
            about = f"{plain(trigger['family'], 40)} → {led(report, trigger)}, detector {detector_state(detector)}"
            images = trigger["facts"].get("images")
            n = images if isinstance(images, int) and not isinstance(images, bool) else None
            if best is None or best.before is None or success > best.before.value:
                best = Measure("Strongest trigger's success", Rate(success, n=n), note=about)
    if best:
        yield best


def all_detectors(report: Report) -> Sequence[Mapping[str, Any]]:
    """The detectors of the scan; none when there was no detection."""
    found: Sequence[Mapping[str, Any]] = (report.get("detection") or {}).get("detectors", ())
    return found


def detector_state(detector: Mapping[str, Any]) -> str:
    """``fired``, ``silent`` or ``not run``."""
    return "not run" if not detector["ran"] else "fired" if detector.get("fired") else "silent"


def detector_rows(report: Report, detector: Mapping[str, Any]) -> list[Row]:
    """What it measured, against what, and where that comes from."""
    if not detector["ran"]:
        return [("reason", plain(detector.get("reason") or "not said"))]
    rows = [("measured", number(detector.get("statistic"))), ("threshold", number(detector.get("threshold")))]
    if detector.get("threshold_origin"):
        rows.append(("threshold from", plain(detector["threshold_origin"], 400)))
    rows.append(("false alarms on clean models", false_alarms(report, detector.get("false_alarm_rate"))))
    if detector.get("target") is not None:
        rows.append(("suspected target", class_name(report, detector["target"])))
    if detector.get("p_value") is not None:
        rows.append(
            ("p value", f"{number(detector['p_value'])}, its rank among honest networks like this one")
        )
    rows += [
        (label(key), fact(key, value)) for key, value in list((detector.get("facts") or {}).items())[:20]
    ]
    if detector.get("seconds") is not None:
        rows.append(("took", seconds(detector["seconds"])))
    return rows


def false_alarms(report: Report, own: float | None) -> str:
    """How often honest models are accused: by one detector alone, and by a scan like this one."""
    scan = (report.get("detection") or {}).get("false_alarms")
    if not scan:
        return percent(own)
    low, high = scan["interval"]
    alone = "not measured" if own is None else round(own * scan["n"]) or "none"
    return (
        f"of this detector alone {alone}, of all together {round((scan['value'] or 0) * scan['n']) or 'none'} of "
        f"{scan['n']} honest networks like this one (95 % interval {100 * low:.0f} to {100 * high:.0f} %)"
    )


def findings_title(report: Report) -> str:
    """A purified file is another one than the findings are of."""
    return "Findings in the original" if report.get("purification") else "Findings"


def findings(report: Report) -> list[Mapping[str, Any]]:
    """Gravest first; otherwise in the order of the report."""
    return sorted(report["findings"], key=lambda finding: _RANK.index(finding["severity"]))


def evidence(report: Report, finding: Mapping[str, Any]) -> list[Row]:
    """What was measured, the threshold and its origin first; then the rest, then the place.

    Of what was not measured only the false-alarm rate is said; a class is said once, by number and name.
    """
    facts, place = dict(finding.get("evidence") or {}), dict(finding.get("place") or {})
    first = [
        key for key in ("statistic", "threshold", "threshold_origin", "false_alarm_rate") if key in facts
    ]
    order = first + [key for key in facts if key not in first]
    if isinstance(place.get("class"), int):
        order = [key for key in order if key != "target" or facts[key] != place["class"]]
        place["class"] = class_name(report, place["class"])
        place.pop("name", None)
    kept = [key for key in order if facts[key] is not None or key == "false_alarm_rate"]
    rows = [
        (label(key), false_alarms(report, facts[key]) if key == "false_alarm_rate" else fact(key, facts[key]))
        for key in kept[:20]
    ]
    where = [(label(key), words(value)) for key, value in place.items() if value not in (None, "")]
    rows += where[:8] + ([("path", path(finding))] if finding.get("path") else [])
    return [("suppressed", said), *rows] if (said := suppressed(finding)) else rows


def path(finding: Mapping[str, Any]) -> str:
    """The steps of a branch in one line; brackets stand around where the rule is met and what is asked there."""
    marked = ("condition", "join")
    return " → ".join(
        f"[{plain(step['operator'], 40)}]" if step.get("mark") in marked else plain(step["operator"], 40)
        for step in (finding.get("path") or ())[:20]
    )


def undone(report: Report) -> list[Row]:
    """(what, why) of everything that did not happen, detectors that could not run included."""
    rows = [(plain(entry["what"], 300), plain(entry["why"], 600)) for entry in report["not_done"]]
    said = {what for what, _ in rows}
    for detector in all_detectors(report):
        named = {plain(detector["title"], 300), plain(detector["name"], 300), title(detector)}
        if not detector["ran"] and not named & said:
            rows.append((title(detector), plain(detector.get("reason") or "not said", 600)))
    return rows


def model_rows(report: Report) -> list[Row]:
    """The file and the network in it."""
    model = report.get("model") or {}
    if not model:
        return []
    architecture, given, head = (model.get(part) or {} for part in ("architecture", "input", "head"))
    rows = [("file", plain(model["path"], 300)), ("kind", plain(model.get("kind") or "not recognised", 80))]
    if model.get("size") is not None:
        rows.append(("size", size(model["size"])))
    rows.append(("opened", plain(model["opened"], 80)))
    if architecture.get("name"):
        how = f" ({plain(architecture['how'], 200)})" if architecture.get("how") else ""
        rows.append(("architecture", plain(architecture["name"], 200) + how))
    if architecture.get("candidates"):
        rows.append(("also possible", words(architecture["candidates"])))
    if model.get("parameters") is not None:
        rows.append(("parameters", number(model["parameters"])))
    if given:
        shape = [str(given.get(part) or "any") for part in ("channels", "height", "width")]
        batch = f", batch {given['batch']}" if given.get("batch") else ""
        rows.append(("input", " × ".join(shape) + batch))
    if head.get("units") is not None:
        one = head.get("classes") == 1
        classes = "one output for two classes" if one else f"{words(head.get('classes'))} classes"
        rows.append(("head", f"{number(head['units'])} units → {classes}"))
    return rows + [("note", plain(note, 400)) for note in model.get("notes") or ()]


def clean_rows(report: Report) -> list[Row]:
    """The clean set: how many, in which parts, what was left out."""
    clean = report.get("clean") or {}
    if not clean:
        return []
    rows = [("folder", plain(clean.get("path", ""), 300)), ("images", words(clean.get("images")))]
    if clean.get("used"):
        rows.append(("parts", ", ".join(f"{label(part)} {words(n)}" for part, n in clean["used"].items())))
    if clean.get("labels"):
        rows.append(("labels", plain(clean["labels"], 300)))
    if clean.get("accuracy") is not None:
        rows.append(("accuracy of the original", percent(clean["accuracy"])))
    if origin := (report.get("preprocessing") or {}).get("origin"):
        rows.append(("preprocessing", plain(origin, 300)))
    for entry in clean.get("skipped") or ():
        examples = f": {words(entry['examples'][:3])}" if entry.get("examples") else ""
        rows.append(("skipped", f"{words(entry['count'])} × {plain(entry['reason'], 200)}{examples}"))
    return rows + [
        ("converted", f"{words(entry['count'])} × {plain(entry['what'], 200)}")
        for entry in clean.get("converted") or ()
    ]


def preprocessing_rows(report: Report) -> list[Row]:
    """From a picture to the network's input, and who said so."""
    used = report.get("preprocessing") or {}
    keys = ("size", "resize", "crop", "interpolation", "channels", "mean", "std", "origin", "margin")
    rows = [(key, words(used[key])) for key in keys if used.get(key) is not None]
    return rows + [
        (f"tried {plain(entry['name'], 80)}", percent(entry["accuracy"]))
        for entry in used.get("candidates") or ()
    ]


def purification_rows(report: Report) -> list[Row]:
    """What the purifier did, what was written, with its settings."""
    done = report.get("purification") or {}
    if not done:
        return []
    rows = [("method", plain(done["method"], 80)), ("accepted", words(done["accepted"]))]
    if done.get("reason"):
        rows.append(("reason", plain(done["reason"], 600)))
    changed = done.get("changed") or ()
    if changed:
        elements = sum(entry.get("elements") or 0 for entry in changed)
        rows.append(("changed", f"{len(changed)} tensors, {number(elements)} values"))
    written = done.get("output") or {}
    if written:
        rows += [("written", plain(written["path"], 300)), ("its sha256", words(written["sha256"]))]
    if written.get("data"):
        rows.append(("its data", words(written["data"])))
    if written.get("largest_logit_difference") is not None:
        rows.append(("largest logit difference in its runtime", number(written["largest_logit_difference"])))
    rows += _round_rows(report, done.get("rounds") or ())
    rows += [("note", plain(note, 400)) for note in done.get("notes") or ()]
    return rows + [
        (f"setting {label(key)}", words(value)) for key, value in (done.get("settings") or {}).items()
    ]


def _round_rows(report: Report, rounds: Sequence[Mapping[str, Any]]) -> Iterator[Row]:
    """What each round found, where there was more than one, and what came of it."""
    for place, one in enumerate(rounds[:ROWS] if len(rounds) > 1 else (), 1):
        named = [
            f"{plain(piece['name'], 80)} ({class_name(report, piece.get('target'))})"
            for piece in one.get("fired") or ()
        ]
        accuracy = rate(one.get("acc"))
        said = [
            f"found by {', '.join(named)}" if named else "no detector fired",
            f"{words(one.get('unlearned'))} transforms unlearned",
            f"accuracy {accuracy.text if accuracy else 'not measured'}",
            plain(one.get("reason") or ("Accepted." if one["accepted"] else "Not accepted."), 600),
        ]
        yield f"round {place}{', kept' if one['kept'] else ''}", "; ".join(said)


#: Below the canaries.
CANARIES = (
    "Known backdoors, planted in copies of this model by a short fine-tuning on the clean images, and looked for by "
    "the same scan. One that was trained in from the start may be easier or harder to see."
)


def canary_rows(report: Report) -> list[Row]:
    """What was planted in copies, and whether the scan saw it."""
    rows = []
    for one in (report.get("detection") or {}).get("canaries") or ():
        works = rate(one.get("asr"))
        name = f"{plain(one['family'])} to {class_name(report, one.get('target'))}"
        cost = f"cost {100 * one['lost']:.1f} points of accuracy" if one["lost"] > 0 else "cost no accuracy"
        state = (
            f"found by {words(one['fired'])}"
            if one["fired"]
            else "missed"
            if one["counts"]
            else "not counted"
        )
        rows.append((name, f"{state}; works in {works.text if works else 'none'}, {cost}"))
    return rows


def explanation_rows(report: Report) -> list[Row]:
    """What the triggered images do, and how well the clean ones foretold it."""
    shown = report.get("explanation") or {}
    if not shown:
        return []
    rows = [("triggered images", plain(shown["path"], 300))]
    success, recovered = rate(shown.get("success")), rate(shown.get("recovered"))
    if success:
        clean = percent(shown.get("base_rate"))
        where = class_name(report, shown.get("target"))
        rows.append((f"put in {where}", f"{success.text}; of the clean images {clean}"))
    if recovered:
        rows.append(("answered with their own class", recovered.text))
    if shown.get("compared_with"):
        rows.append(("compared with", plain(shown["compared_with"], 300)))
    rows.append(("units moved most", words(shown.get("moved") or [])))
    for entry in shown.get("agreement") or ():
        right = percent((entry.get("precision") or {}).get("change"))
        text = f"{right} are among the tenth moved most (chance {percent(shown.get('chance'))})"
        ranked = entry.get("rank_correlation")
        text += "" if ranked is None else f"; rank correlation {ranked:.2f}"
        rows.append((f"lowest tenth by {plain(entry['metric'], 20)}", text))
    return rows


def command_line(report: Report) -> str:
    """The command as a shell would take it, made harmless to look at."""
    return "wiper " + plain(shlex.join(report["arguments"]), 1000)


def reproduce(report: Report) -> list[Row]:
    """Command, digests, seed, versions."""
    rows = [("command", command_line(report))]
    model = report.get("model") or {}
    if model.get("sha256"):
        rows.append(("sha256", model["sha256"]))
    rows.append(("seed", "none" if report.get("seed") is None else str(report["seed"])))
    rows.append(("wiper", plain(report["tool"]["version"], 40)))
    rows += [(label(key), words(value)) for key, value in (report.get("environment") or {}).items()]
    isolation = report.get("isolation") or {}
    if isolation:
        confined = "confined" if isolation.get("confined") else "not confined"
        note = f": {plain(isolation['note'], 300)}" if isolation.get("note") else ""
        rows.append(("isolation", f"{words(isolation.get('process', 'none'))}, {confined}{note}"))
    timing = report.get("timing") or {}
    if timing:
        rows.append(("time", ", ".join(f"{label(key)} {seconds(value)}" for key, value in timing.items())))
    return [*rows, ("made", plain(report["created"], 40)), ("exit code", str(report["exit_code"]))]
