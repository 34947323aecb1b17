"""``python -m tools.new KIND NAME``: the skeleton of one more purifier, detector, trigger, metric, report or operator.

It writes the file or folder, one row of the table, a test file and a line of the changelog, and prints generated pages
anew. The skeleton works and passes the checks, but does nothing of use yet, and says so.
"""

import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

PURIFIER = '''\
from dataclasses import dataclass

from wiper_cli.purifiers.options import HEAD, Settings, option


@dataclass(frozen=True)
class {Class}(Settings):
    """A skeleton: scales the head. Say here where the method comes from and in what it differs."""

    name = "{name}"
    title = "{Words}: a skeleton that scales the head"
    needs = HEAD
    claims_removal = False

    factor: float = option(0.9, "Factor of the head's weights.", 0)
'''
PURIFIER_METHOD = '''\
"""{Words}: source, formula, and what differs from it."""

from formats import head_edit
from wiper_cli.purifiers.contract import Purified, Task
from wiper_cli.purifiers.methods.{module} import {Class}


def purify(settings: {Class}, task: Task) -> Purified:
    """Scales the head; looks at no image."""
    weight, bias = task.classifier.head()
    return Purified(head_edit(task.classifier.model, settings.factor * weight, bias))
'''
PURIFIER_TEST = """\
import torch

from formats import apply_edit
from wiper_cli.purifiers.contract import Task
from wiper_cli.purifiers.methods.{module} import {Class}


def test_the_head_is_scaled(classifier, clean):
    purified = {Class}(factor=0.5).run(Task(classifier, clean))
    after = apply_edit(classifier.model, purified.edit).network
    assert torch.equal(after.fc.weight, 0.5 * classifier.model.network.fc.weight)
    assert set(purified.edit.tensors) == {{"fc.weight"}}
"""
DETECTOR = '''\
"""{Words}: source, and what differs from it. Imports no torch."""

from dataclasses import dataclass

from wiper_cli.detectors.evidence import Detector, setting
from wiper_cli.verdict import Rule, Severity


@dataclass(frozen=True)
class {Class}(Detector):
    """A skeleton. Statistic: by how much a class is answered more often than it occurs, as a share of images."""

    name = "{name}"
    title = "answers beyond a class's share of the clean images, a skeleton"
    says = "clean images of other classes are sent to it"
    needs_gradients = False
    origin = "chosen on nothing"
    rule = Rule(
        id="{rule}",
        title="One class is answered too often",
        means="Far more clean images are answered with one class than have its label.",
        do="Look at the images so answered.",
        severity=Severity.HIGH,
        cwe=(912,),
    )

    threshold: float = setting(0.9, "share of held-out images")
'''
DETECTOR_METHOD = '''\
"""Counts answers on the select part."""

import torch

from wiper_cli.classifier import Classifier
from wiper_cli.detectors.common import predictions
from wiper_cli.detectors.effort import Extent, Plan
from wiper_cli.detectors.evidence import Clock, Evidence
from wiper_cli.detectors.{module} import {Class}
from wiper_cli.images.splits import Clean


def plan(settings: {Class}, extent: Extent) -> Plan:
    """One pass over the images."""
    return Plan(settings.name, extent.classes, extent.select, 0)


def look(settings: {Class}, classifier: Classifier, clean: Clean, clock: Clock, seed: int) -> Evidence:
    """Answers and labels of every class."""
    clock.tick(0, 1)
    answers = predictions(classifier, clean.select.images).cpu()
    many, expected = (
        torch.bincount(classes, minlength=classifier.classes).double() / len(classes)
        for classes in (answers, clean.select.labels)
    )
    excess = (many - expected).tolist()
    clock.tick(1, 1)
    top = max(range(len(excess)), key=excess.__getitem__)
    fired = excess[top] > settings.threshold
    return Evidence(
        settings.name, True, "", excess[top], settings.threshold, settings.origin, fired=fired,
        target=top if fired else None, per_class=excess, suspects=[top],
    )  # fmt: skip
'''
DETECTOR_TEST = """\
import torch

from wiper_cli.detectors.{module} import {Class}
from wiper_cli.progress import silent


def test_a_network_that_knows_one_answer(classifier, clean):
    class Constant(torch.nn.Module):
        def forward(self, x):
            return torch.nn.functional.one_hot(torch.full((len(x),), 2), 6).float()

    evidence = {Class}(threshold=0.8).run(classifier(network=Constant()), clean, silent, 0)
    assert evidence.fired
    assert evidence.target == 2
    assert evidence.statistic == 5 / 6
"""
TRIGGER = '''\
"""{Words}: source, formula, and what differs from it.

A skeleton: T(x) is 1 in the first ``rows`` rows and x below them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from triggers.family import Trigger, check
from triggers.poisoning import Poisoning

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@dataclass(frozen=True)
class {Class}(Trigger):
    """``rows``: height of the bar in pixels."""

    name: ClassVar[str] = "{name}"
    title: ClassVar[str] = "{Words}: a white bar, a skeleton"
    source: ClassVar[str] = "this skeleton"
    poisoning: ClassVar[Poisoning] = Poisoning()
    atlas: ClassVar[tuple[str, ...]] = ("AML.T0043.004", "AML.T0020")

    rows: int = field(default=1, metadata={{"help": "height of the bar in pixels"}})

    def stamp(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """See :class:`triggers.family.Trigger`; fits every image."""
        check(images)
        stamped = images.clone()
        stamped[..., : self.rows, :] = 1
        return stamped
'''
TRIGGER_TEST = """\
import torch

from triggers.families.{module} import {Class}


def test_the_bar_and_nothing_else(images):
    stamped = {Class}(rows=2).stamp(images)
    assert (stamped[..., :2, :] == 1).all()
    assert torch.equal(stamped[..., 2:, :], images[..., 2:, :])
"""
METRIC = '''\
"""{Words} of the head's units: source, formula, and what differs from it. A skeleton: the mean of h_j squared."""

from torch import Tensor


def {module}(features: Tensor, logits: Tensor, labels: Tensor, weight: Tensor) -> Tensor:
    """E[h_j^2]: features [N,D] → float64 [D]; the other arguments are the common signature's."""
    return features.double().square().mean(dim=0)
'''
METRIC_TEST = """\
import torch

from wiper_cli.salience.{module} import {module}


def test_by_hand():
    features, none = torch.tensor([[1.0, -2.0, 0.0], [3.0, 2.0, 0.0]]), torch.zeros(0)
    assert {module}(features, none, none, none).tolist() == [5.0, 4.0, 0.0]
"""
METRIC_ROW = """\
    "{name}": Metric(
        "{Words}",
        "{module}:{module}",
        "clean images hardly activate the unit",
        "this skeleton",
        compared=False,
    ),
"""
REPORT = '''\
"""{Words}: for whom. A skeleton: a line a model, and one a finding."""

from collections.abc import Sequence

from wiper_cli.reports import story
from wiper_cli.reports.plain import Report, Style, plain


def render(reports: Sequence[Report], style: Style) -> str:
    lines = []
    for report in reports:
        lines.append(f"{{plain((report.get('model') or {{}}).get('path', ''))}}: {{story.sentence(report)}}")
        found = story.findings(report)
        lines += [f"  {{finding['rule']}} {{plain(finding['message'])}}" for finding in found[: story.ROWS]]
        if len(found) > story.ROWS:
            lines.append(f"  {{len(found) - story.ROWS}} more are in the JSON.")
    return "\\n".join(lines)
'''
REPORT_TEST = """\
from wiper_cli.reports import render


def test_a_line_a_model_and_one_a_finding(make):
    report = make("scan_finding")
    lines = render("{name}", [report]).splitlines()
    assert len(lines) == 1 + len(report["findings"])
    assert report["findings"][0]["rule"] in lines[1]
"""
OPERATOR = """\
def {module}({parameters}) -> Tensor:
    raise Unsupported("The ONNX operator {name} is not written yet.")


"""


@dataclass(frozen=True)
class Kind:
    """``files``: path → template. ``table``: file and name of the table that gets ``row``. ``page``: a page to print
    again, and the module that prints it. ``says``: in the changelog."""

    says: str
    table: tuple[str, str]
    row: str
    files: Mapping[str, str]
    page: tuple[str, str] | None = None


_METHODS, _SALIENCE, _TESTS = "wiper_cli/purifiers/methods/", "wiper_cli/salience/", "tests/wiper_cli/"
KINDS: Mapping[str, Kind] = {
    "purifier": Kind(
        "Purifier", ("wiper_cli/purifiers/__init__.py", "METHODS"),
        '        "{name}": "wiper_cli.purifiers.methods.{module}:{Class}",\n',
        {
            _METHODS + "{module}/__init__.py": PURIFIER, _METHODS + "{module}/method.py": PURIFIER_METHOD,
            _TESTS + "purifiers/methods/test_{module}.py": PURIFIER_TEST,
        },
        ("docs/methods.md", "wiper_cli.purifiers"),
    ),
    "detector": Kind(
        "Detector", ("wiper_cli/detectors/__init__.py", "DETECTORS"),
        '        "{name}": "wiper_cli.detectors.{module}:{Class}",\n',
        {
            "wiper_cli/detectors/{module}/__init__.py": DETECTOR,
            "wiper_cli/detectors/{module}/method.py": DETECTOR_METHOD,
            _TESTS + "detectors/test_{module}.py": DETECTOR_TEST,
        },
        ("docs/rules.md", "wiper_cli.rules"),
    ),
    "trigger": Kind(
        "Trigger family", ("triggers/__init__.py", "FAMILIES"),
        '    "{name}": ("triggers.families.{module}", "{Class}"),\n',
        {"triggers/families/{module}.py": TRIGGER, "tests/triggers/families/test_{module}.py": TRIGGER_TEST},
    ),
    "metric": Kind(
        "Metric of units", (_SALIENCE + "__init__.py", "METRICS"), METRIC_ROW,
        {_SALIENCE + "{module}.py": METRIC, _TESTS + "salience/test_{module}.py": METRIC_TEST},
    ),
    "report": Kind(
        "Report format", ("wiper_cli/reports/__init__.py", "FORMATS"),
        '    "{name}": "wiper_cli.reports.{module}",\n',
        {"wiper_cli/reports/{module}.py": REPORT, _TESTS + "reports/test_{module}.py": REPORT_TEST},
    ),
    "operator": Kind(
        "ONNX operator", ("formats/onnx/operators.py", "OPERATORS"), '    "{name}": {{{since}: {call}}},\n', {}
    ),
}  # fmt: skip


def main(arguments: Sequence[str], root: Path) -> int:
    """Writes into the tree at ``root`` and says where; 2 for what is no kind or no free name."""
    if len(arguments) != 2 or arguments[0] not in KINDS:
        print(f"usage: python -m tools.new {'|'.join(KINDS)} NAME", file=sys.stderr)
        return 2
    kind, name = KINDS[arguments[0]], arguments[1]
    pattern = "[A-Z][A-Za-z0-9]*" if arguments[0] == "operator" else "[a-z][a-z0-9]*(-[a-z0-9]+)*"
    table = root / kind.table[0]
    if not re.fullmatch(pattern, name) or f'"{name}": ' in table.read_text("utf-8"):
        print(f"tools.new: {name} is taken or no name: it has the form {pattern}", file=sys.stderr)
        return 2
    words = {
        "name": name,
        "module": re.sub("(?<=[a-z0-9])(?=[A-Z])", "_", name).lower().replace("-", "_"),
        "Class": "".join(part.capitalize() for part in name.split("-")),
        "Words": name.replace("-", " ").capitalize(),
        "rule": _free_rule(root),
    }
    if arguments[0] == "operator":
        words |= _operator(table, words)
    for place, template in kind.files.items():
        path = root / place.format(**words)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(template.format(**words), "utf-8")
        print(path.relative_to(root))
    _insert(table, f"\\n{kind.table[1]}: .*?()\\n *}}\\n", "\n" + kind.row.format(**words).rstrip("\n"))
    _insert(root / "CHANGELOG.md", r"## Unreleased\n.*?### Added\n.*?()\n\n", f"\n- {kind.says}: {name}.")
    if kind.page is not None:
        page, module = kind.page
        command, where = [sys.executable, "-m", module], {**os.environ, "PYTHONPATH": str(root)}
        printed = subprocess.run(command, cwd=root, env=where, capture_output=True, check=True)
        (root / page).write_bytes(printed.stdout)
        print(page)
    print(f"{kind.table[0]}\nCHANGELOG.md")
    return 0


def _insert(path: Path, pattern: str, text: str) -> None:
    """Puts ``text`` where the empty group of ``pattern`` lies."""
    whole = path.read_text("utf-8")
    found = re.search(pattern, whole, re.DOTALL)
    assert found is not None, f"{path} has another form"
    path.write_text(whole[: found.start(1)] + text + whole[found.start(1) :], "utf-8")


def _free_rule(root: Path) -> str:
    """The next number of a rule about behaviour."""
    page = (root / "docs/rules.md").read_text("utf-8")
    return f"WIPER-B{max(map(int, re.findall('WIPER-B([0-9]+)', page))) + 1:02d}"


def _operator(table: Path, words: Mapping[str, str]) -> dict[str, str]:
    """The function of torch that has the operator's name, if it has one input and no attributes; else one of ours that
    refuses until it is written."""
    import torch
    from onnx import defs

    history = [
        one for one in defs.get_all_schemas_with_history() if (one.domain, one.name) == ("", words["name"])
    ]
    if not history:
        sys.exit(f"tools.new: ONNX has no operator {words['name']}")
    schema = max(history, key=lambda one: one.since_version)
    since = str(min(one.since_version for one in history))
    if len(schema.inputs) == 1 and not schema.attributes and hasattr(torch, words["module"]):
        return {"since": since, "call": f"torch.{words['module']}"}
    parameters = ", ".join(f"{entry.name.lower()}: Tensor" for entry in schema.inputs)
    function = OPERATOR.format(**words, parameters=parameters)
    _insert(table, "()#: Operator → ", function)
    return {"since": since, "call": words["module"]}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], Path(__file__).resolve().parents[1]))
