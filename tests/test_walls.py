"""What must not be imported where (DESIGN section 4) beyond the import contracts, and how fast help answers."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
HEAVY = ("torch", "onnx", "onnxruntime", "torchvision", "matplotlib", "timm")


def imported(code: str) -> set[str]:
    program = f"import sys\n{code}\nprint(*[m for m in {HEAVY!r} + ('numpy',) if m in sys.modules])"
    outcome = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=True
    )
    return set(outcome.stdout.splitlines()[-1].split()) if outcome.stdout.strip() else set()


@pytest.mark.parametrize(
    "module",
    ["formats", "triggers", "wiper_cli.main", "wiper_cli.reports", "wiper_cli.detectors", "wiper_cli.purifiers",
     "wiper_cli.worker.parent", "wiper_cli.audit.judgement"],
)  # fmt: skip
def test_light_modules_load_nothing_heavy(module):
    assert not imported(f"import {module}")


@pytest.mark.parametrize("arguments", [["--help"], ["purify", "--help"], ["rules"], ["triggers"]])
def test_commands_that_compute_nothing_load_nothing_heavy(arguments):
    call = "from wiper_cli.main import main\ntry:\n    main()\nexcept SystemExit:\n    pass"
    code = f"sys.argv = ['wiper', *{arguments!r}]\n{call}"
    assert not imported(code)


PACKAGES = ("formats", "triggers", "wiper_cli")


def modules() -> dict[str, tuple[Path, bool]]:
    """Name → (file, whether it is a package's ``__init__``) of every module of ours."""
    found = {}
    for path in (one for package in PACKAGES for one in sorted((ROOT / package).rglob("*.py"))):
        parts = path.relative_to(ROOT).with_suffix("").parts
        package = parts[-1] == "__init__"
        found[".".join(parts[: len(parts) - package])] = path, package
    return found


def named(tree: ast.Module) -> Iterator[str]:
    """Patterns of the modules that strings name: in tables of a module, and as what ``import_module`` is given."""
    tables = [node for node in tree.body if isinstance(node, ast.Assign | ast.AnnAssign)]
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    loads = [call for call in calls if ast.unparse(call.func).rpartition(".")[2] == "import_module"]
    for node in (inner for outer in [*tables, *loads] for inner in ast.walk(outer)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield re.escape(node.value)
    for node in (argument for call in loads for argument in call.args if isinstance(argument, ast.JoinedStr)):
        yield "".join(re.escape(p.value) if isinstance(p, ast.Constant) else r"\w+" for p in node.values)


def edges(name: str, path: Path, package: bool, known: Collection[str]) -> set[str]:
    """What a module names of ours, anywhere in it."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = {one for pattern in named(tree) for one in known if re.fullmatch(pattern, one)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = name.split(".")[: len(name.split(".")) - node.level + package] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            found |= {f"{base}.{a.name}" if f"{base}.{a.name}" in known else base for a in node.names}
    return (found & set(known)) - {name}


def circle(graph: Mapping[str, Collection[str]]) -> list[str]:
    """Modules that lead back to the first of them, or an empty list."""
    done: set[str] = set()

    def visit(path: list[str]) -> list[str]:
        for following in sorted(graph[path[-1]]):
            if following in path:
                return [*path[path.index(following) :], following]
            if following not in done and (found := visit([*path, following])):
                return found
        done.add(path[-1])
        return []

    return next((found for name in graph if name not in done and (found := visit([name]))), [])


def test_no_module_leads_back_to_itself():
    """Imports inside functions and for types alone count as well, and so do modules that a literal table or
    ``import_module`` names. That a module's packages are executed before it does not: then no table of a package
    could name what lies in it. A package that is imported by its name counts."""
    known = modules()
    graph = {name: edges(name, *found, known) for name, found in known.items()}
    assert "formats.onnx.opener" in graph["formats.kinds"]
    assert "triggers.families.badnet" in graph["triggers"]
    assert " → ".join(circle(graph)) == ""


def test_a_circle_is_found_wherever_it_closes(tmp_path):
    def leads(text):
        (tmp_path / "m.py").write_text(text)
        return edges("a.m", tmp_path / "m.py", False, {"a", "a.m", "a.b", "a.c", "a.d"})

    assert leads("def f():\n    from a import b, other") == {"a", "a.b"}
    assert leads("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from .b import x") == {"a.b"}
    assert leads("TABLE = {'x': ('a.c', 'Class')}\nload(f'a.{x}')") == {"a.c"}
    assert leads("def f(x):\n    return import_module(f'a.{x}')") == {"a.b", "a.c", "a.d"}
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]
    assert circle({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []
