"""The hand-made networks of the detectors' tests, requests, and what fails where long work begins."""

from functools import partial

import pytest
from planted_network import classifier as planted  # noqa: F401
from planted_network import clean as planted_clean  # noqa: F401

from wiper_cli.audit import detection
from wiper_cli.audit.requests import PurifyRequest
from wiper_cli.purifiers import METHODS


@pytest.fixture
def purification(job):
    return partial(job, PurifyRequest)


@pytest.fixture
def nothing_long(monkeypatch):
    """Fails the test when a detector or a method is started."""

    def never(*_, **__):
        pytest.fail("the long work was started")

    monkeypatch.setattr(detection, "look", never)
    for method in METHODS.values():
        monkeypatch.setattr(method, "run", never)
