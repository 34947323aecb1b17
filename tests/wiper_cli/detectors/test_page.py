"""docs/detectors.md names every detector with its rule, threshold and work, as the code has them."""

import re
from pathlib import Path

from wiper_cli.detectors import DETECTORS, detector
from wiper_cli.detectors.effort import EFFORTS, Extent

PAGE = Path(__file__).resolve().parents[3] / "docs/detectors.md"
SMALL = Extent(classes=10, channels=3, height=32, width=32, fit=500, select=500, head=True)


def row(name: str) -> str:
    kind = DETECTORS[name]
    plans = [kind.at(effort, SMALL).plan(SMALL) for effort in EFFORTS]
    passes = ", ".join(f"{plan.forward + plan.backward:,}" for plan in plans)
    gradients = "yes" if kind.needs_gradients else "no"
    return f"| {name} | {kind.rule.id} | {detector(name).threshold:g} | {gradients} | {passes} |"


def test_every_detector_has_its_row_and_its_section():
    text = PAGE.read_text(encoding="utf-8")
    assert [line for line in text.splitlines() if "| WIPER-B" in line] == [row(name) for name in DETECTORS]
    assert re.findall(r"^## (\S+)$", text, re.MULTILINE) == list(DETECTORS)
