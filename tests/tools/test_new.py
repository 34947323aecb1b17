"""One skeleton of every kind, in a copy of the tree, put before the checks that a change has to pass."""

import os
import re
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from tools.new import KINDS, main

ROOT = Path(__file__).resolve().parents[2]
NAMES = {kind: f"tried-{kind}" for kind in KINDS} | {"operator": "Sinh"}
CHECKS = ["tests/conformance", "tests/formats/onnx/test_operators.py", "tests/wiper_cli/test_rules.py"]


def grown(copy, kinds, results):
    """The tree in the folder ``copy``, with one more of ``kinds``."""
    command = ["git", "ls-files", "-co", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    for name in listed.stdout.splitlines():
        if (results or "results/" not in name) and (ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, copy / name)
    for kind in kinds:
        assert main([kind, NAMES[kind]], copy) == 0
    return copy


def python(tree, *arguments):
    """The exit code and the output of a Python program in the tree."""
    # Its few tests cover little: a floor that CI adds is not for them.
    where = {**os.environ, "PYTHONPATH": str(tree), "PYTEST_ADDOPTS": ""}
    done = subprocess.run([sys.executable, *arguments], cwd=tree, capture_output=True, text=True, env=where)
    return done.returncode, done.stdout + done.stderr


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    return grown(tmp_path_factory.mktemp("tree"), KINDS, results=False)


@pytest.fixture
def run(tree):
    """:func:`python` in a tree with one more of every kind."""
    return partial(python, tree)


def lint_imports(run):
    return run("-c", "from importlinter.cli import lint_imports_command as lint; lint()")


@pytest.mark.slow
def test_the_skeletons_pass_the_checks_of_style_types_and_walls(run, tree):
    new = {path.relative_to(tree).with_suffix("") for path in tree.rglob("*.py")}
    modules = [".".join(path.parts) for path in sorted(new) if re.match("(?!tests).*tried_", str(path))]
    assert len(modules) == 7
    types = ["mypy", "--follow-imports=silent", "-m", "formats.onnx.operators"]
    types += [word for module in modules for word in ("-m", module.removesuffix(".__init__"))]
    for arguments in (["ruff", "check", "."], ["ruff", "format", "--check", "."], types):
        code, said = run("-m", *arguments)
        assert code == 0, said
    code, said = lint_imports(run)
    assert code == 0, said


@pytest.mark.slow
def test_the_skeletons_pass_their_own_tests_and_the_conformance_tests(run, tree):
    own = sorted(tree.glob("tests/**/test_tried_*.py"))
    assert len(own) == len(KINDS) - 1
    chosen = ["-v", "-k", "tried or Sinh or page", *CHECKS, *map(str, own)]
    code, said = run("-m", "pytest", *chosen)
    assert code == 0, said
    assert int(re.search(r"(\d+) passed", said)[1]) > 60
    for kind in KINDS:
        assert f"{KINDS[kind].says}: {NAMES[kind]}." in (tree / "CHANGELOG.md").read_text("utf-8")


def test_committed_pages_and_cells_stay_what_they_are(tmp_path):
    """A new detector changes what a scan hands on, so that its cells are measured again; nothing else does."""
    code, said = python(
        grown(tmp_path, KINDS.keys() - {"detector"}, results=True), "-m", "pytest", "tests/test_results.py"
    )
    assert code == 0, said


@pytest.mark.parametrize(
    ("place", "line"),
    [
        ("wiper_cli/purifiers/methods/tried_purifier/method.py", "import wiper_cli.purifiers.methods.clp"),
        ("wiper_cli/detectors/tried_detector/method.py", "import wiper_cli.detectors.max_margin"),
        ("wiper_cli/detectors/tried_detector/method.py", "import triggers"),
    ],
)
def test_a_wall_stands_before_whatever_is_new(run, tree, place, line):
    text = (tree / place).read_text("utf-8")
    try:
        (tree / place).write_text(f"{text}\n\n{line}\n", "utf-8")
        code, said = lint_imports(run)
    finally:
        (tree / place).write_text(text, "utf-8")
    assert code == 1
    assert "BROKEN" in said


def test_contributing_names_every_kind():
    page = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    for kind in KINDS.values():
        assert f"`{kind.table[0]}`" in page
        for place in kind.files:
            home = place.format(module="NAME").replace("__init__.py", "").removesuffix("method.py")
            assert home.startswith("tests/") or f"`{home}`" in page


def test_an_operator_without_a_namesake_in_torch_refuses_until_it_is_written(run, tree):
    assert main(["operator", "AffineGrid"], tree) == 0
    code, said = run(
        "-c", "from formats.onnx.operators import lookup; lookup('AffineGrid', 20)[1](None, None)"
    )
    assert code == 1
    assert "Unsupported: The ONNX operator AffineGrid is not written yet." in said


@pytest.mark.parametrize(
    "arguments",
    [[], ["purifier"], ["method", "x"], ["purifier", "Mine"], ["purifier", "clp"], ["operator", "Conv"]],
)
def test_wrong_usage(arguments, capsys):
    assert main(arguments, ROOT) == 2
    assert capsys.readouterr().err
