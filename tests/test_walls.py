"""What importing a module loads, which import contracts cannot tell."""

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
     "wiper_cli.worker.parent", "wiper_cli.worker.child", "wiper_cli.audit.judgement"],
)  # fmt: skip
def test_light_modules_load_nothing_heavy(module):
    assert not imported(f"import {module}")


@pytest.mark.parametrize("arguments", [["--help"], ["purify", "--help"], ["rules"], ["triggers"]])
def test_commands_that_compute_nothing_load_nothing_heavy(arguments):
    call = "from wiper_cli.main import main\ntry:\n    main()\nexcept SystemExit:\n    pass"
    code = f"sys.argv = ['wiper', *{arguments!r}]\n{call}"
    assert not imported(code)


PACKAGES = ("formats", "triggers", "wiper_cli")


def modules() -> dict[str, str]:
    """Name → source text of every module of ours."""
    paths = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
    dotted = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in paths}
    return {name.removesuffix(".__init__"): path.read_text("utf-8") for name, path in dotted.items()}


def strings(tree: ast.Module) -> Iterator[str]:
    """Patterns of the modules that strings name: in tables of a module, and as what ``import_module`` is given."""
    tables = [node for node in tree.body if isinstance(node, ast.Assign | ast.AnnAssign)]
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    loads = [call for call in calls if ast.unparse(call.func).rpartition(".")[2] == "import_module"]
    for node in (inner for outer in [*tables, *loads] for inner in ast.walk(outer)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield re.escape(node.value)
    for node in (argument for call in loads for argument in call.args if isinstance(argument, ast.JoinedStr)):
        yield "".join(re.escape(p.value) if isinstance(p, ast.Constant) else r"\w+" for p in node.values)


def named(text: str, known: Collection[str]) -> set[str]:
    """Which of the modules ``known`` a source text names, anywhere in it."""
    tree = ast.parse(text)
    found = {one for pattern in strings(tree) for one in known if re.fullmatch(pattern, one)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.module, "imports are absolute"
            whole = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {one if one in known else node.module for one in whole}
    return found & set(known)


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
    texts = modules()
    graph = {name: named(text, texts) - {name} for name, text in texts.items()}
    assert "formats.onnx.opener" in graph["formats.kinds"]
    assert "triggers.families.badnet" in graph["triggers"]
    assert " → ".join(circle(graph)) == ""


def test_circles_are_found_wherever_they_close():
    known = {"a", "a.b", "a.c", "a.d"}
    assert named("def f():\n    from a import b, other", known) == {"a", "a.b"}
    assert named("if TYPE_CHECKING:\n    import a.b", known) == {"a.b"}
    assert named("TABLE = {'x': ('a.c', 'Class')}\nload(f'a.{x}')", known) == {"a.c"}
    assert named("def f(x):\n    return import_module(f'a.{x}')", known) == {"a.b", "a.c", "a.d"}
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]
    assert circle({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []
