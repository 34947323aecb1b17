"""Whether this machine can confine a process at all: gVisor and older kernels have no Landlock."""

import json
import subprocess

import pytest

from wiper_cli.worker import confinement, launcher


@pytest.fixture(scope="session")
def missing():
    """Names of the layers that this machine lacks, asked in a process of its own."""
    told = subprocess.run(
        launcher.command("-m", confinement.__name__), capture_output=True, check=True, timeout=60,
        env=launcher.environment(),
    ).stdout  # fmt: skip
    return [layer["name"] for layer in json.loads(told) if not layer["holds"]]


@pytest.fixture(scope="session")
def lockable(missing):
    """Skips where a layer is missing."""
    if missing:
        pytest.skip(f"this machine lacks {', '.join(missing)}")
