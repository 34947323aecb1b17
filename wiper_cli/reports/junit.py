"""JUnit XML for merge requests: one suite a model, one test case a detector, a failure for each finding."""

from collections.abc import Sequence
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from wiper_cli.reports import story
from wiper_cli.reports.plain import Report, Style, plain
from wiper_cli.rules import known

#: More of one kind are left out of a suite; they are in the JSON.
_MOST_CASES = 5000


def render(reports: Sequence[Report], style: Style) -> str:
    root = Element("testsuites", name="wiper")
    for report in reports:
        _suite(root, report)
    indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + tostring(root, encoding="unicode")


def _suite(root: Element, report: Report) -> None:
    path = plain((report.get("model") or {}).get("path", "model"), 300)
    suite = SubElement(root, "testsuite", name=path, timestamp=report["created"][:19])
    properties = SubElement(suite, "properties")
    SubElement(properties, "property", name="verdict", value=report["verdict"])
    for aside in story.asides(report):
        SubElement(properties, "property", name="aside", value=plain(aside, 600))
    failures = errors = skipped = 0
    for finding in story.findings(report)[:_MOST_CASES]:
        case = SubElement(
            suite, "testcase", classname=path, name=f"{finding['rule']} {known(finding['rule']).title}"
        )
        if finding["severity"] == "info":
            continue
        if said := story.suppressed(finding):
            skipped += 1
            SubElement(case, "skipped", message=plain(f"suppressed {said}", 600))
            continue
        failures += 1
        failure = SubElement(
            case, "failure", message=plain(finding["message"], 600), type=finding["severity"]
        )
        failure.text = "\n".join(f"{name}: {value}" for name, value in story.evidence(report, finding))
    for detector in story.all_detectors(report)[:_MOST_CASES]:
        case = SubElement(suite, "testcase", classname=path, name=story.title(detector))
        if not detector["ran"]:
            skipped += 1
            SubElement(case, "skipped", message=plain(detector.get("reason") or "not said", 600))
    verdict = SubElement(suite, "testcase", classname=path, name="verdict")
    if report["verdict"] == "incomplete" or report["exit_code"] in (2, 3):
        errors += 1
        SubElement(verdict, "error", message=plain(report["sentence"], 600), type="incomplete")
    counts = {
        "tests": len(suite.findall("testcase")),
        "failures": failures,
        "errors": errors,
        "skipped": skipped,
    }
    for name, count in counts.items():
        suite.set(name, str(count))
