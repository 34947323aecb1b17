"""Says of committed cells that a change of code altered no number: they get the digest that their code has now.

    python -m benchmarks.vouch SCALE REASON

Only for what was shown, such as a function moved and its edits compared bit by bit. A setting that cells lack gets its
default, one that is gone is dropped; where one differs, the cell stays stale. REASON stands in the provenance of the
cells.
"""

import sys
from collections.abc import Mapping
from typing import Any

from benchmarks.findings import RESULTS
from wiper_cli.bench.identity import identity
from wiper_cli.bench.store import Store
from wiper_cli.verdict import Problem


def vouch(store: Store, reason: str) -> int:
    """How many cells were given another digest or a missing setting."""
    count = 0
    for cell in store.cells():
        outcome = store.read(cell)
        try:
            now = identity(cell)
        except Problem:
            continue  # a method that is gone
        old = (outcome or {}).get("settings", {})
        settled = {"settings": kept(old, now["settings"]), "code": now["code"]}
        if outcome is not None and any(outcome.get(key) != value for key, value in settled.items()):
            store.write(cell, {**outcome, **settled, "run": {**outcome["run"], "code": reason}})
            count += 1
    store.merge()
    return count


def kept(old: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that there are now, with their old values; those of a scan stand under its detectors."""
    both = {key: (old.get(key, value), value) for key, value in now.items()}
    return {k: kept(was, value) if isinstance(value, Mapping) else was for k, (was, value) in both.items()}


if __name__ == "__main__":
    print(vouch(Store(RESULTS, sys.argv[1]), sys.argv[2]), "cells")
