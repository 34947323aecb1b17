"""README and docs say what is there: exit codes, commands, options, links, paths."""

from __future__ import annotations

import json
import re
from pathlib import Path

import click
import pytest
from ruamel.yaml import YAML

from wiper_cli.audit.requests import Examination
from wiper_cli.detectors import DETECTORS
from wiper_cli.detectors.evidence import FEWEST_IMAGES, FEWEST_IN_PART
from wiper_cli.main import COMMANDS, cli
from wiper_cli.purifiers import METHODS
from wiper_cli.verdict import EXIT_PRECEDENCE, ExitCode, Verdict, combine
from wiper_cli.worker.watch import SHARE

ROOT = Path(__file__).resolve().parents[1]
WORDS = ("flagged", "failed", "silent")
NUMBERS = {5: "five", 6: "six", 7: "seven", 8: "eight"}
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
    "page",
    [
        "README.md", "docs/quick-start.md", "docs/costs.md", "docs/recipes.md", "docs/ci.md", "docs/gate.md",
        "docs/fleet.md", "docs/zoo.md", "docs/reproduction.md",
    ],
)  # fmt: skip
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


@pytest.mark.parametrize("page", ["reading-a-verdict.md", "no-verdict.md", "costs.md", "recipes.md"])
def test_pages_name_options_that_exist(page):
    known = {option for name in COMMANDS for one in cli().commands[name].params for option in one.opts}
    text = re.sub(r"python -m tf2onnx.*", "", (ROOT / "docs" / page).read_text(encoding="utf-8"))
    options = re.findall(r"(?<![\w-])--[a-z][a-z-]*", text)
    assert options
    assert not set(options) - known


def test_the_page_on_costs_has_the_numbers_of_the_code_and_of_the_results():
    page = (ROOT / "docs/costs.md").read_text(encoding="utf-8")
    assert f"needs {FEWEST_IMAGES}, of which {FEWEST_IN_PART}" in page
    assert f"More than {Examination.max_images:,} are" in page
    assert f"holds {SHARE:.0%} of" in page.replace(" %", "%")
    measured = json.loads((ROOT / "benchmarks/results/scan_cost.json").read_text(encoding="utf-8"))
    rows = {line.replace(",", "") for line in page.splitlines() if line.startswith("| ")}
    passes = {
        f"| {r['classes']} | {r['side']} | {r['quick']} | {r['normal']} | {r['thorough']} |"
        for r in measured["passes"]
    }
    held = {
        f"| {r['network']} | {r['side']} | {r['classes']} | {r['effort']} | {r['peak_gib']:.1f} |"
        for r in measured["measured"]
    }
    assert len(rows & passes) == 5
    assert rows & held == held
    assert len(rows) == 2 + 5 + len(held)


def test_the_page_on_other_tools_counts_what_was_measured():
    page = (ROOT / "docs/comparison.md").read_text(encoding="utf-8")
    result = json.loads((ROOT / "benchmarks/results/scanners.json").read_text(encoding="utf-8"))
    honest = result["files"].pop("honest")
    assert (
        f"{sum(result['files'].values())} hostile files of wiper's own tests, and {honest} honest ones"
        in page
    )
    assert NUMBERS[len(DETECTORS)] + " detectors" in page
    assert f"{len(METHODS)} methods" in page
    for name, tool in result["tools"].items():
        safe = tool["said"].pop("honest")
        cells = [sum(said.get(word, 0) for said in tool["said"].values()) for word in WORDS]
        cells += [safe.get(word, 0) for word in WORDS]
        assert (
            f"| {' '.join([name, *[tool[k] for k in ('version',) if k in tool]])} | {' | '.join(map(str, cells))} |"
            in page
        )


def test_the_page_on_ci_names_what_the_kit_has():
    text = (ROOT / "docs/ci.md").read_text(encoding="utf-8")
    github, hooks, gitlab = (
        YAML(typ="safe").load(block) for block in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    )
    action = YAML(typ="safe").load(ROOT / "action.yml")
    needed = {name for name, one in action["inputs"].items() if one.get("required")}
    assert needed <= set(github["steps"][1]["with"]) <= set(action["inputs"])
    assert all(f"`{name}`" in text or name in github["steps"][1]["with"] for name in action["inputs"])
    offered = {one["id"] for one in YAML(typ="safe").load(ROOT / ".pre-commit-hooks.yaml")}
    assert {one["id"] for one in hooks["repos"][0]["hooks"]} == offered
    described = next(YAML(typ="safe").load_all((ROOT / "templates/wiper.yml").read_text(encoding="utf-8")))
    required = {name for name, one in described["spec"]["inputs"].items() if "default" not in one}
    assert required <= set(gitlab["include"][0]["inputs"]) <= set(described["spec"]["inputs"])


def test_python_in_the_recipes_is_python():
    text = (ROOT / "docs/recipes.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(blocks) == 5
    for block in blocks:
        compile(block, "recipes.md", "exec")


def test_the_readme_counts_the_canaries_that_were_found():
    text = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    result = json.loads((ROOT / "benchmarks/results/canaries.json").read_text(encoding="utf-8"))
    counting = [one for network in result["networks"] for one in network["canaries"] if one["counts"]]
    found = sum(bool(one["fired"]) for one in counting)
    assert len(result["networks"]) == 8
    assert f"Of {len(counting)} backdoors planted in copies of eight honest ones" in text
    assert f"it found {found}." in text
