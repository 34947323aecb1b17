"""What a developer reads and runs: one set of commands everywhere, places that exist, pins that fit."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


PROJECT = tomllib.loads(read("pyproject.toml"))
MAKEFILE = read("Makefile").replace("$(BIN)", ".venv/bin").replace("$(CONSTRAINTS)", "constraints-cpu.txt")
#: Target → its commands, as one would type them.
TARGETS = {
    name: [line.strip() for line in recipe.splitlines()]
    for name, recipe in re.findall(r"^(\w+):\n((?:\t.+\n)+)", MAKEFILE, re.MULTILINE)
}


def pins(name: str) -> dict[str, str]:
    lines = [line.split("==") for line in read(name).splitlines() if line and not line.startswith("#")]
    return {project.lower().replace("_", "-"): version for project, version in lines}


def test_the_makefile_runs_what_continuous_integration_and_contributing_name():
    assert list(TARGETS) == ["setup", "test", "check", "demo", "docs"]
    (setup,), (test,) = TARGETS["setup"], TARGETS["test"]
    for page in (".ci/run", "README.md"):
        assert f"{setup} && {test}" in read(page)
    for target, command in (("setup", setup), ("test", test)):
        assert f"| `make {target}` | `{command}` |" in read("CONTRIBUTING.md")
    assert set(TARGETS["check"]) <= set(read(".ci/run").splitlines())
    hooks = re.findall(r"entry: (.+)", read(".pre-commit-config.yaml"))
    assert hooks
    assert {f".venv/bin/{hook}" for hook in hooks} <= set(TARGETS["check"])


def exists(name: str) -> bool:
    """Whether what a page says in code font is there: a command, a path (NAME: any), a word of pyproject.toml."""
    if match := re.fullmatch(r"make (\w+)(?: CONSTRAINTS=(\S+))?", name):
        return match[1] in TARGETS and (ROOT / (match[2] or "")).exists()
    if match := re.fullmatch(r"python -m (\S+)(?: .*)?", name):
        return (ROOT / match[1].replace(".", "/")).with_suffix(".py").exists()
    if re.fullmatch(r"[\w./-]+[/.][\w./-]*", name):
        return any(ROOT.glob(name.rstrip("/").replace("NAME", "[!_]*")))
    return name in read("pyproject.toml") or name in MAKEFILE


@pytest.mark.parametrize("page", ["CONTRIBUTING.md", "docs/releasing.md"])
def test_the_pages_for_developers_name_what_exists(page):
    named = set(re.findall(r"`([^`]+)`", re.sub(r"\s+", " ", read(page))))
    typed = {name for name in named if re.match(r"(pip|git|bash|pytest) |v", name)}
    assert not {name for name in named - typed if not exists(name)}


def test_the_lock_satisfies_every_range():
    lock, extras = pins("requirements-dev.lock"), PROJECT["project"]["optional-dependencies"]
    wanted = [Requirement(line) for line in sum(extras.values(), PROJECT["project"]["dependencies"])]
    here = {"sys_platform": "linux", "platform_machine": "x86_64"}
    for one in wanted:
        if one.marker is None or one.marker.evaluate(here):
            assert one.specifier.contains(lock[one.name]), one
    assert pins("constraints-cpu.txt").items() <= lock.items()
    assert not re.search(r"://|@|--", read("requirements-dev.lock")), "neither hosts nor options"


def test_the_matrix_has_every_python_that_the_package_claims():
    claimed = [
        line.rpartition(" ")[2] for line in PROJECT["project"]["classifiers"] if "Python :: 3." in line
    ]
    (listed,) = re.findall(r"python: \[(.+)\]", read(".github/workflows/tests.yml"))
    assert re.findall(r"[\d.]+", listed) == claimed
    requires = Requirement(f"x{PROJECT['project']['requires-python']}").specifier
    assert [v for v in (f"3.{minor}" for minor in range(30)) if requires.contains(v)] == claimed


def test_code_owners_name_places_that_exist():
    places = re.findall(r"^/(\S+?)/?(?: .*)?$", read(".github/CODEOWNERS"), re.MULTILINE)
    assert places
    assert all(any(ROOT.glob(place)) for place in places)


def test_nothing_advises_to_install_a_name_that_is_not_published():
    """Whoever registers it would be installed."""
    pages = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]
    for path in [*pages, *ROOT.glob("wiper_cli/**/*.py"), *ROOT.glob("formats/**/*.py")]:
        assert not re.search(r"pip install '?wiper", path.read_text(encoding="utf-8")), path
