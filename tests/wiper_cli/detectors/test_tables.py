from dataclasses import fields

import pytest

from wiper_cli.detectors import DETECTORS, PROBES, detector, probes
from wiper_cli.tables import load


@pytest.mark.parametrize("name", DETECTORS)
def test_a_detector_is_what_its_row_says(name):
    found = detector(name)
    assert found.name == name
    assert found.title
    assert isinstance(found.needs_gradients, bool)
    assert all(field.metadata.get("help") for field in fields(found))


def test_settings_go_to_the_detector():
    assert detector("max-margin", starts=3).starts == 3


def test_probes_differ_from_the_scan():
    for place, changes in PROBES.values():
        scan = load(place)()
        assert all(getattr(scan, name) != value for name, value in changes.items())


def test_probes_are_aimed_at_the_suspects():
    found = probes((3, 1), time_limit=5.0)
    assert list(found) == list(PROBES)
    assert found["coarser warp"].targets == found["additive pattern"].targets == (3, 1)
    assert all(probe.time_limit == 5.0 for probe in found.values())
