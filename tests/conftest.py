"""Shared by all tests: one thread, so that results do not depend on the machine's load or width."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
