"""README and docs say what is there: exit codes, commands, options, links, paths."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest

from wiper_cli.audit.requests import Examination
from wiper_cli.detectors.evidence import FEWEST_IMAGES, FEWEST_IN_PART
from wiper_cli.main import COMMANDS, cli
from wiper_cli.verdict import EXIT_PRECEDENCE, ExitCode, Verdict, combine

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_exit_codes_are_the_constants():
    rows = {int(code): text for code, text in re.findall(r"^\| (\d) \| (.+) \|$", README, re.MULTILINE)}
    assert set(rows) == {int(code) for code in ExitCode}
    assert "finding" in rows[ExitCode.FINDING]
    assert "wrong usage" in rows[ExitCode.USAGE]
    assert "no verdict" in rows[ExitCode.NO_VERDICT]
    assert "Over several files 1 comes before 2 before 3 before 0." in README
    assert [int(code) for code in EXIT_PRECEDENCE] == [1, 2, 3, 0]
    assert combine([0, 3, 2]) == ExitCode.USAGE


@pytest.mark.parametrize(
    "page", ["README.md", "docs/zoo.md", "docs/reproduction.md", "docs/gate.md", "docs/fleet.md"]
)
def test_every_command_shown_exists_with_its_options(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    lines = re.findall(r"^ {4,}wiper (\w+)(.*)$", text, re.MULTILINE)
    assert lines
    for name, rest in lines:
        command = cli().commands[name]
        if isinstance(command, click.Group):
            command = command.commands[rest.split()[0]]
        known = {option for parameter in command.params for option in parameter.opts}
        for option in re.findall(r"(?<!\S)(--?[a-z][a-z-]*)", rest):
            assert option in known, f"wiper {name} has no {option}"


def test_every_link_and_path_leads_somewhere():
    lost = []
    for page in sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]):
        text = page.read_text(encoding="utf-8")
        linked = [(page.parent, link) for link in re.findall(r"\]\(([^)#:]+)\)", text)]
        inside = r"`((?:formats|triggers|wiper_cli|tests|tools|docs|benchmarks|examples|\.github)/[\w./-]*)`"
        named = [(ROOT, path.rstrip("/").replace("NAME", "[!_]*")) for path in re.findall(inside, text)]
        lost += [(page.name, path) for base, path in linked + named if not any(base.glob(path))]
    assert not lost


def test_the_page_on_verdicts_names_every_exit_code_and_verdict():
    page = (ROOT / "docs/reading-a-verdict.md").read_text(encoding="utf-8")
    assert {int(code) for code in re.findall(r"^\| (\d) \|", page, re.MULTILINE)} == {
        int(code) for code in ExitCode
    }
    assert all(f"`{verdict}`" in page for verdict in Verdict)
    known = {option for name in COMMANDS for one in cli().commands[name].params for option in one.opts}
    for option in re.findall(r"(?<![\w-])--[a-z][a-z-]*", page):
        assert option in known, option
    assert f"needs {FEWEST_IMAGES}, of which {FEWEST_IN_PART}" in page
    assert f"More than {Examination.max_images:,} are" in page
