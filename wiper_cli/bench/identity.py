"""Whether an outcome still is what its cell would give: the same settings, code and model file. Imports no torch.

Code is compared by its syntax trees without docstrings, so that comments, docstrings and formatting may change.
``ast.dump`` and ``ast.unparse`` write one tree differently from Python 3.11 to 3.13; :func:`normalised` does not.
"""

import ast
import hashlib
import json
from collections.abc import Mapping
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from wiper_cli import detectors, salience
from wiper_cli.bench.cells import Cell
from wiper_cli.purifiers import METHODS
from wiper_cli.verdict import Problem

_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def identity(cell: Cell) -> dict[str, Any]:
    """``{settings, code}`` as they are now. Raises :class:`Problem` for names that resolve to nothing."""
    return {"settings": cell.resolved(), "code": code_of(cell)}


def changes(cell: Cell, outcome: Mapping[str, Any], sha256: str | None = None) -> tuple[str, ...]:
    """What differs now from what ``outcome`` was measured with, a phrase each. ``sha256``: of the model file, where it
    is known. Settings and code of a cell that cannot be run any more are not compared."""
    found = []
    try:
        now = identity(cell)
    except Problem:
        now = {}
    if now:
        old = outcome.get("settings", {})
        found += [
            f"{cell.name} {key} was {old.get(key, 'absent')} and is {now['settings'].get(key, 'absent')}"
            for key in sorted({*old, *now["settings"]})
            if old.get(key, "absent") != now["settings"].get(key, "absent")
        ]
        if outcome.get("code") != now["code"]:
            found.append(f"code of {cell.name}")
    return (*found, *file_change(cell, outcome, sha256))


def file_change(cell: Cell, outcome: Mapping[str, Any], sha256: str | None) -> tuple[str, ...]:
    """The part of :func:`changes` that concerns the model file."""
    same = sha256 is None or outcome.get("specimen", {}).get("sha256") == sha256
    return () if same else (f"{cell.file} of {cell.specimen}",)


def sha256_of(zoo: Path | None, cell: Cell) -> str | None:
    """Of the cell's model file in ``zoo``, as its manifest has it; ``None`` where there is none."""
    return None if zoo is None else _manifest(zoo / cell.specimen).get(cell.file, {}).get("sha256")


def forget_models() -> None:
    """Reads the manifests of zoos anew."""
    _manifest.cache_clear()


@lru_cache(maxsize=1024)
def _manifest(folder: Path) -> Any:
    try:
        return json.loads((folder / "manifest.json").read_bytes())["files"]
    except (OSError, ValueError, KeyError):
        return {}


def code_of(cell: Cell) -> str:
    """Digest of the files of its method, metric or detectors, 12 hexadecimal digits; a method that takes a scan
    depends on the detectors, too."""
    modules = []
    if cell.kind == "salience":
        modules.append(f"{salience.__name__}.{salience.METRICS[cell.name].place.partition(':')[0]}")
    elif cell.kind == "purify":
        modules.append(METHODS[cell.name].__module__)
    if cell.kind == "scan" or cell.uses_scan:
        modules.append(detectors.__name__)
    return _digest(tuple(modules))


@lru_cache(maxsize=256)
def _digest(modules: tuple[str, ...]) -> str:
    """Of modules, and of packages whole. Kept as long as the process, as the modules themselves are."""
    whole = hashlib.sha256()
    for module in modules:
        spec = find_spec(module)
        assert spec is not None, module
        origin = Path(spec.origin or "")
        for path in sorted(origin.parent.rglob("*.py")) if spec.submodule_search_locations else [origin]:
            text = normalised(path.read_text(encoding="utf-8"))
            whole.update(f"{path.relative_to(origin.parent)}\n{text}\n".encode())
    return whole.hexdigest()[:12]


def normalised(source: str) -> str:
    """One text for every way to write the same code, in Python 3.11 to 3.13."""
    pieces: list[str] = []
    _write(ast.parse(source), pieces)
    return "".join(pieces)


def _write(node: Any, pieces: list[str]) -> None:
    if isinstance(node, list):
        for one in node:
            _write(one, pieces)
            pieces.append(",")
    elif not isinstance(node, ast.AST):
        pieces.append(ascii(node))
    else:
        pieces.append(f"{type(node).__name__}(")
        for name in node._fields:
            value: Any = getattr(node, name, None)
            if name == "body" and isinstance(node, _DOCUMENTED):
                value = value[ast.get_docstring(node, clean=False) is not None :]
            elif isinstance(node, ast.JoinedStr):  # 3.12.0 has empty pieces
                value = [one for one in value if not (isinstance(one, ast.Constant) and one.value == "")]
            # What a later version adds is empty in the code of an earlier one; ``ctx`` follows from the place.
            if name not in ("ctx", "kind") and value is not None and value != []:
                pieces.append(f"{name}=")
                _write(value, pieces)
                pieces.append(";")
        pieces.append(")")
