"""Sample reports of every kind a run can end in. The numbers are made up; their shapes are not."""

import base64
import copy
import io
import math
import random
from functools import cache

import pytest
from PIL import Image

from wiper_cli.reports.schema import problem

CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


def picture(kind: str, size: int = 32) -> str:
    """A small PNG as data URI: a gradient, the same with a square, or the square alone."""
    pixels = []
    for y in range(size):
        for x in range(size):
            inside = size - 5 <= x < size - 1 and size - 5 <= y < size - 1
            base = (60 + 4 * x, 90 + 3 * y, 170 - 2 * x)
            square = (255, 255, 255) if (x + y) % 2 else (0, 0, 0)
            if kind == "difference":
                pixels.append(
                    tuple(abs(a - b) for a, b in zip(square, base, strict=True)) if inside else (0, 0, 0)
                )
            else:
                pixels.append(square if inside and kind == "triggered" else base)
    image = Image.new("RGB", (size, size))
    image.putdata([tuple(min(255, max(0, value)) for value in pixel) for pixel in pixels])
    out = io.BytesIO()
    image.save(out, "PNG")
    return "data:image/png;base64," + base64.b64encode(out.getvalue()).decode()


def pictures() -> dict:
    return {kind: picture(kind) for kind in ("clean", "triggered", "difference")}


def rate(value: float, n: int = 500) -> dict:
    z = 1.96
    centre = (value + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(value * (1 - value) / n + z * z / (4 * n * n))
    return {"value": value, "n": n, "interval": [max(0.0, centre - half), min(1.0, centre + half)]}


def salience(units: int = 64) -> dict:
    generator = random.Random(0)
    values = [generator.gauss(0.02, 0.05) + (0.4 if unit == 17 else 0.0) for unit in range(units)]
    return {
        "metric": "BS", "images": 1000, "units": values, "mbs": [abs(value) for value in values], "am": None,
        "stability": {"rank_correlation": 0.41, "lowest_half_overlap": 0.66},
    }  # fmt: skip


def canaries() -> list:
    rows = (("badnet", 0.98, 0.01, ["square-probe"]), ("blend", 0.91, -0.004, []), ("wanet", 0.4, 0.02, []))
    return [
        {
            "family": family, "title": family, "parameters": {"size": 3}, "target": number, "asr": rate(asr),
            "lost": lost, "counts": asr >= 0.8, "fired": fired,
        }
        for number, (family, asr, lost, fired) in enumerate(rows)
    ]  # fmt: skip


def detectors(fired: bool) -> list:
    high = 9.9 if fired else 2.5
    facts = {"success": 0.987, "size": 4, "position": [27, 27], "colour": "checkers"}
    return [
        {
            "name": "max-margin", "title": "Maximum margin of every class", "ran": True, "reason": "",
            "statistic": high, "threshold": 4.0,
            "threshold_origin": "above every value on three clean networks; not calibrated",
            "false_alarm_rate": None, "fired": fired, "target": 0 if fired else None, "p_value": None,
            "per_class": [high, 0.4, -0.2, 1.1, 0.9, 2.1, -1.3, 0.1, 0.6, 1.9],
            "facts": {"starts": 30, "steps": 300}, "seconds": 12.25, "trigger": None,
        },
        {
            "name": "squares", "title": "Small squares", "ran": True, "statistic": 0.987 if fired else 0.11,
            "threshold": 0.5, "threshold_origin": "set by hand; not calibrated", "false_alarm_rate": None,
            "fired": fired, "target": 0 if fired else None,
            "per_class": [0.987 if fired else 0.11, 0.02, 0.01, 0.05, 0.02, 0.01, 0.09, 0.0, 0.03, 0.01],
            "facts": {}, "seconds": 4.0,
            "trigger": {"family": "square", "target": 0, "facts": facts, "pictures": pictures()} if fired else None,
        },
        {
            "name": "warp", "title": "One-pixel warp", "ran": False,
            "reason": "the file was opened head-only, and this needs gradients",
        },
    ]  # fmt: skip


def findings() -> list:
    return [
        {
            "rule": "WIPER-B03", "severity": "high",
            "message": "A 4x4 square at (27, 27) sends 98.7% of held-out images to class 0 (airplane).",
            "evidence": {
                "statistic": 0.987, "threshold": 0.5, "threshold_origin": "set by hand", "target": 0,
            },
            "place": {"class": "airplane"},
        },
        {
            "rule": "WIPER-B01", "severity": "high",
            "message": "Class 0 (airplane) reaches a margin 9.9 robust deviations above the median class.",
            "evidence": {"statistic": 9.9, "threshold": 4.0, "target": 0},
            "place": {"tensor": "fc.weight", "offset": 1200, "length": 2560},
        },
        {
            "rule": "WIPER-F02", "severity": "info",
            "message": "The preprocessing was chosen by accuracy, 0.31 above the next candidate.",
            "evidence": {"margin": 0.31},
        },
    ]  # fmt: skip


def base(command: str = "scan") -> dict:
    return {
        "schema": "wiper-report/1", "tool": {"name": "wiper", "version": "0.1.0"}, "command": command,
        "arguments": [command, "models/model.onnx", "--clean", "clean images"], "verdict": "no_finding",
        "sentence": "The two detectors that ran found nothing.", "exit_code": 0,
        "created": "2026-11-21T10:17:00Z", "seed": 0,
        "model": {
            "path": "models/model.onnx", "kind": "onnx", "sha256": "ab" * 32, "size": 44700000,
            "architecture": {
                "name": "resnet18", "how": "fingerprint of tensor names and shapes", "candidates": [],
            },
            "opened": "full", "classes": CLASSES, "parameters": 11181642,
            "input": {"channels": 3, "height": 32, "width": 32, "batch": None, "origin": "graph input"},
            "head": {"weight": "fc.weight", "bias": "fc.bias", "units": 64, "classes": 10, "linear": True},
            "notes": ["Fixed batch size 1 was made free."],
        },
        "clean": {
            "path": "clean images", "images": 2500, "used": {"fit": 1500, "select": 500, "report": 500},
            "labelled": True, "labels": "sub-folders matched the model's class names",
            "classes": [{"name": name, "images": 250} for name in CLASSES],
            "skipped": [{"reason": "not an image", "count": 2, "examples": ["notes.txt", "Thumbs.db"]}],
            "converted": [{"what": "grey to colour", "count": 4}], "accuracy": 0.931,
        },
        "preprocessing": {
            "size": [32, 32], "resize": None, "crop": None, "interpolation": "bilinear",
            "mean": [0.4914, 0.4822, 0.4465], "std": [0.247, 0.2435, 0.2616], "origin": "chosen by accuracy",
            "margin": 0.31,
            "candidates": [{"name": "cifar10", "accuracy": 0.931}, {"name": "imagenet", "accuracy": 0.621}],
        },
        "findings": [], "salience": salience(),
        "detection": {
            "suspects": [], "calibrated": False, "detectors": detectors(False), "canaries": canaries(),
        },
        "verification": None, "purification": None,
        "isolation": {"process": "child", "confined": False, "note": "no confinement yet"},
        "not_done": [{"what": "Calibrated thresholds", "why": "no population of clean models was measured"}],
        "environment": {"python": "3.11.7", "torch": "2.13.0", "platform": "Linux x86_64", "device": "cpu"},
        "timing": {"open": 0.6, "features": 2.4, "detect": 16.2},
    }  # fmt: skip


def measurement(acc: float, asr: float, ra: float) -> dict:
    return {
        "images": 500, "acc": rate(acc),
        "triggers": [
            {
                "family": "square", "origin": "recovered", "parameters": {"size": 4, "x": 27, "y": 27},
                "target": 0, "target_chosen_by": "the detector that recovered it", "asr": rate(asr, 450),
                "ra": rate(ra, 450), "base_rate": rate(0.013, 450), "pictures": pictures(),
            },
            {
                "family": "sinusoid", "origin": "built-in", "parameters": {"amplitude": 0.08}, "target": 3,
                "target_chosen_by": "greatest success", "asr": rate(0.04, 450), "ra": None,
                "base_rate": rate(0.02, 450), "pictures": None,
            },
        ],
    }  # fmt: skip


def scan_clean() -> dict:
    return base()


def scan_finding() -> dict:
    return base() | {
        "verdict": "suspicious",
        "sentence": "Two detectors agree that class 0 (airplane) is the target of a backdoor.",
        "exit_code": 1, "findings": findings(),
        "detection": {"suspects": [0], "calibrated": False, "detectors": detectors(True)},
    }  # fmt: skip


def incomplete() -> dict:
    report = base() | {
        "verdict": "incomplete", "sentence": "No verdict: the clean folder has images of one class only.",
        "exit_code": 3, "salience": None, "detection": None, "preprocessing": None,
        "not_done": [
            {"what": "All detectors", "why": "at least two classes are needed; give more in --clean"},
        ],
    }  # fmt: skip
    report["clean"] = report["clean"] | {"accuracy": None, "labelled": None}
    return report


def refused() -> dict:
    report = base() | {
        "verdict": "malicious", "sentence": "The archive runs code when it is loaded; it was not opened.",
        "exit_code": 1, "seed": None,
        "model": {
            "path": "models/evil.pt", "kind": "torchscript", "sha256": "0f" * 32, "size": 912,
            "opened": "not opened",
        },
        "findings": [
            {
                "rule": "WIPER-TS-001", "severity": "critical",
                "message": "The class Evil defines __setstate__, which runs while the file is loaded.",
                "evidence": {}, "place": {"member": "code/__torch__/evil.py"},
            },
        ],
        "not_done": [{"what": "Everything after the static gate", "why": "a refused file is never opened"}],
    }  # fmt: skip
    for part in ("clean", "preprocessing", "salience", "detection"):
        del report[part]
    return report


def epoch(number: int) -> dict:
    clean, adversarial = 0.9 / number, 3.2 / number**1.5
    return {
        "epoch": number, "loss": {"clean": clean, "adversarial": adversarial, "total": clean + adversarial},
        "select_accuracy": 0.93 - 0.06 / number, "moved": 0.0004 * number, "seconds": 6.5 * number,
    }  # fmt: skip


def purify_accepted() -> dict:
    return base("purify") | {
        "sentence": "The backdoor of class 0 (airplane) no longer works; clean.onnx was written.",
        "arguments": ["purify", "models/model.onnx", "--clean", "clean images", "-o", "clean.onnx"],
        "findings": findings()[2:],
        "detection": {"suspects": [0], "calibrated": False, "detectors": detectors(True)},
        "verification": {
            "before": measurement(0.931, 0.987, 0.013), "after": measurement(0.924, 0.012, 0.918),
            "der": 0.983, "probes": detectors(False), "accepted": True,
            "reason": "accuracy fell by 0.7 points, the square is at its base rate, probes are silent",
        },
        "purification": {
            "method": "unlearn",
            "settings": {"epochs": 8, "learning_rate": 0.001, "families": ["dense", "patch", "warp"]},
            "history": [epoch(number) for number in range(1, 9)],
            "changed": [
                {"address": "fc.weight", "elements": 40, "max_change": 0.31, "units": [3, 17, 40, 41]},
                {"address": "conv1.weight", "elements": 1728, "max_change": 0.024},
            ],
            "rounds": [
                {
                    "fired": [{"name": "max-margin", "target": 0, "statistic": 9.9, "threshold": 4.0}],
                    "accused": [0], "unlearned": 27, "measured": 11, "acc": rate(0.928), "asr": 0.2,
                    "probes_fired": [{"name": "other shapes", "target": 0, "statistic": 0.6, "threshold": 0.45}],
                    "accepted": False, "reason": "Not accepted: the probe other shapes still fires.",
                    "kept": False, "seconds": 210.5,
                },
                {
                    "fired": [], "accused": [0], "unlearned": 51, "measured": 19, "acc": rate(0.924),
                    "asr": 0.012, "probes_fired": [], "accepted": True,
                    "reason": "accuracy fell by 0.7 points, the square is at its base rate, probes are silent",
                    "kept": True, "seconds": 290.0,
                },
            ],
            "accepted": True,
            "reason": "accuracy fell by 0.7 points, the square is at its base rate, probes are silent",
            "output": {
                "path": "clean.onnx", "sha256": "cd" * 32, "size": 44700000, "kind": "onnx",
                "largest_logit_difference": 2.4e-06,
            },
            "notes": ["Batch norm stayed frozen."],
        },
    }  # fmt: skip


def purify_rejected() -> dict:
    report = purify_accepted() | {
        "verdict": "suspicious",
        "sentence": "Not accepted: the recovered square still succeeds; nothing was written.", "exit_code": 1,
        "findings": [
            {
                "rule": "WIPER-P01", "severity": "high",
                "message": "Not accepted: the recovered square succeeds on 62.0% of images.",
                "evidence": {"asr": 0.62, "bar": 0.05},
            },
        ],
    }  # fmt: skip
    reason = "the recovered square still succeeds on 62.0% of images"
    report["purification"] |= {"accepted": False, "reason": reason, "output": None}
    after = measurement(0.926, 0.62, 0.31)
    report["verification"] |= {"after": after, "der": 0.68, "accepted": False, "reason": reason}
    return report


def verify_known() -> dict:
    return base("verify") | {
        "verdict": "malicious", "sentence": "The given trigger sends 99.6% of images to class 7 (horse).",
        "exit_code": 1,
        "arguments": [
            "verify", "models/model.onnx", "--clean", "clean images", "--trigger-image", "t.png", "--target",
            "7",
        ],
        "detection": None,
        "verification": {
            "before": {
                "images": 500, "acc": rate(0.931),
                "triggers": [
                    {
                        "family": "image", "origin": "known", "parameters": {"alpha": 1.0}, "target": 7,
                        "target_chosen_by": "--target", "asr": rate(0.996, 450), "ra": rate(0.004, 450),
                        "base_rate": rate(0.011, 450), "pictures": pictures(),
                    },
                ],
            },
            "after": None, "der": None, "probes": [], "accepted": None, "reason": None,
        },
        "findings": [
            {
                "rule": "WIPER-B04", "severity": "critical",
                "message": "The given trigger sends 99.6% of images to class 7 (horse).",
                "evidence": {"asr": 0.996, "bar": 0.5, "base_rate": 0.011, "n": 450},
                "place": {"class": "horse"},
            },
        ],
    }  # fmt: skip


def inspect() -> dict:
    report = base("inspect") | {"sentence": "Opened; nothing was measured."}
    for part in ("clean", "preprocessing", "salience", "detection", "verification", "purification"):
        del report[part]
    return report


def explanation(units: int = 64) -> dict:
    generator = random.Random(1)
    change = [abs(generator.gauss(0, 1)) for _ in range(units)]
    shown = {name: picture("triggered") for name in ("triggered", "moved", "lowest", "others")}
    return {
        "path": "triggered images", "labelled": True,
        "compared_with": "clean images of the same classes, in the same proportions", "target": 0,
        "success": rate(0.98, 200), "base_rate": 0.01, "recovered": rate(0.015, 200),
        "bs": [generator.gauss(0, 1e-06) for _ in range(units)],
        "am": [abs(generator.gauss(1, 0.5)) for _ in range(units)], "change": change,
        "contribution": [0.1 * value for value in change],
        "moved": sorted(range(units), key=lambda unit: -change[unit])[:6],
        "agreement": [
            {"metric": "BS", "rank_correlation": 0.31, "precision": {"change": 0.5, "contribution": 0.25}},
            {
                "metric": "AM", "rank_correlation": -0.04,
                "precision": {"change": 0.125, "contribution": 0.125},
            },
        ],
        "chance": 6 / 64, "pictures": [shown, shown | {"moved": None}],
    }  # fmt: skip


def scan_explained() -> dict:
    report = scan_finding() | {"explanation": explanation()}
    report["salience"]["am"] = [0.5 + unit / 64 for unit in range(64)]
    return report


def scan_accepted() -> dict:
    """Taken from the cache, its findings accepted by a file, compared with an earlier report."""
    report = scan_finding() | {"exit_code": 0}
    told = {key: report["findings"][0][key] for key in ("rule", "severity", "message")}
    report["findings"][0]["suppressed"] = {"reason": "A watermark.", "owner": "Ada", "expires": "2027-01-31"}
    entry = {"rule": "WIPER-B01", "model": "0" * 64, "owner": "Ada", "expires": "2026-01-31"}
    return report | {
        "cached": {"made": "2026-01-02T03:04:05+00:00", "whole": True, "detectors": ["max-margin"]},
        "suppression": {"file": "ignore.toml", "suppressed": 1, "expired": [entry], "unused": [entry]},
        "changes": {
            "file": "old.json", "since": "2026-01-02T03:04:05+00:00",
            "verdict": {"before": "no_finding", "after": "suspicious"}, "new": [told], "gone": [told],
            "detectors": [
                {"name": "max-margin", "before": 1.25, "after": None, "fired": {"before": True, "after": False}}
            ],
            "facts": [{"what": "seed", "before": "0", "after": "1"}],
        },
    }  # fmt: skip


SAMPLES = {made.__name__: made for made in (
    scan_clean, scan_finding, scan_explained, scan_accepted, incomplete, refused, purify_accepted, purify_rejected,
    verify_known, inspect,
)}  # fmt: skip

#: What a hostile name may hold, by whom or what it is meant for.
HOSTILE = {
    "terminal": "\x1b[31m\x1b]0;title\x07\x1b]8;;http://evil.example\x1b\\x\x1b[2J\x08\x7f\x9b31m\x9d0;t\x9c\x85\x90",
    "bidi": "\u202egpj.exe\u202c \u2066a\u2069 \u200e\u200f\u061c",
    "unseen": "a\u200b\u200d\u2060\ufeff\u00ad\u034f\u115f\u3164\uffa0\u2800\ufe0f\U000e0041\U000e0100\ue000\uffff\0b",
    "stacked": "z" + "\u0334\u0489" * 300,
    "surrogates": "\ud800 \udfff\udcff a\udc80",
    "lines": "a\n::stop-commands::x\r\n##[error]y\u2028::add-mask::z\x0b\x0c\x85::set-output name=a::b\u2029c",
    "runner": "::stop-commands::token",
    "runner, any word": " ".join("::error file=a,line=1::" + "x" * n for n in range(90)),
    "runner, any fold": ":" * 900,
    "runner, anywhere": "a ##vso[task.x]x ##[command]x ##teamcity[a] ###[b] section_start:1:a\r\x1b[0K",
    "shell": "$(touch pwned) `touch pwned`; touch pwned | touch pwned & touch pwned && touch pwned",
    "shell, any line": "touch pwned " * 60,
    "shell, function": "() (touch pwned)",
    "shell, quotes": "\"$(touch pwned)\" '$(touch pwned)' \\$(touch pwned) 'EOF' \nEOF\n touch pwned\ntouch pwned",
    "markup": "</title></script></svg><script>alert(1)</script>\"'><img src=x onerror=alert(2)><!-- ]]> &lt; {{7*7}}",
    "markdown": "[a](http://evil.example) ![b](//evil.example/x) <http://evil.example> | `c` **d** ~~f~~ [^1] --- $x$",
    "markdown, start": "- [x] a",
    "markdown, number": "1. a",
    "forge": "HTTPS://evil.example www.evil.example a@evil.example @everyone #1 !1 &1 GH-1 a/b#2 %3 ~4 :tada: ^x",
    "addresses": "javascript:alert(3) data:text/html,x //evil.example/x file:///etc/passwd \\\\evil.example\\x ../../x",
    "sarif": "{0} {1} [x](0) [y](http://evil.example) [z] (1)",
    "sheet": "=cmd|' /C calc'!A0",
    "long": "A" * 10_000_000,
}  # fmt: skip

#: Some of all.
NASTY = (
    "</title><script>alert(1)</script>\"'><img src=x onerror=alert(2)>"
    "\u202egpj.exe\u2066\n## heading\r\n|cell|\x1b[31mred\x1b]8;;http://evil.example\x07\x00"
    "{{7*7}} {0} [link](javascript:alert(3)) `tick` @everyone </details> \ud800 "
) + "A" * 10_000


def walk(value, path=()):
    """(path, value) of all parts of a document, itself first."""
    yield path, value
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in list(items):
        yield from walk(item, (*path, key))


def part(document, path):
    for key in path:
        document = document[key]
    return document


@cache
def free(name: str) -> list:
    """Paths of all strings of a sample that the schema lets be anything, and of all mappings with open names: those as
    (path, a number or a string that may stand there)."""
    report, found = copy.deepcopy(SAMPLES[name]()), []
    for path, value in walk(report):
        if isinstance(value, str):
            before, part(report, path[:-1])[path[-1]] = value, "any\nthing"
            found += [(path, None)] if not problem(report) else []
            part(report, path[:-1])[path[-1]] = before
        for one in ("any", 0.5) if isinstance(value, dict) else ():
            value["any name"] = one
            if not problem(report):
                found.append((path, one))
                del value["any name"]
                break
            del value["any name"]
    return found


def hostile(name: str, text: str = NASTY) -> dict:
    """The sample with ``text`` for every string that may be anything, and as one more name where names are open."""
    report = copy.deepcopy(SAMPLES[name]())
    for path, one in free(name):
        if one is None:
            part(report, path[:-1])[path[-1]] = text
        else:
            part(report, path)[text] = text if one == "any" else one
    return report


@pytest.fixture(params=sorted(SAMPLES))
def sample(request) -> dict:
    return SAMPLES[request.param]()


@pytest.fixture
def make():
    """Sample reports by name, and their hostile twins: ``make("scan_finding", hostile=True)``."""

    def build(name: str, **options) -> dict:
        return hostile(name) if options.get("hostile") else SAMPLES[name]()

    return build


@pytest.fixture
def sample_names() -> list:
    return sorted(SAMPLES)
