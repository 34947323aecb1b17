"""Shared by all tests: one thread, so that results do not depend on the machine's load or width, and who is skipped."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["WIPER_NO_CACHE"] = "1"  # nothing that a test sees was found by another run


def pytest_runtest_setup(item: pytest.Item) -> None:
    if torch := sys.modules.get("torch"):
        torch.set_warn_always(True)  # else only the first of all tests to earn a warning would see it
    if item.get_closest_marker("root") and (not hasattr(os, "geteuid") or os.geteuid() == 0):
        pytest.skip("root may read and write anywhere")


@pytest.fixture(autouse=True)
def _device(request: pytest.FixtureRequest) -> Iterator[None]:
    """What a test marked ``gpu`` runs on where there is no CUDA device: a pretended one."""
    if request.node.get_closest_marker("gpu") is None:
        yield
        return
    import torch
    from pretend_device import pretended

    if torch.cuda.is_available():
        yield
        return
    with pretended():
        yield
