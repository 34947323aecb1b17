"""A distribution that adds a method, a detector and a trigger family, installed in a folder of its own."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import onnx
import pytest

from tools import new
from wiper_cli.commands.shared.example_files import example_folder
from wiper_cli.detectors.evidence import Detector, setting
from wiper_cli.detectors.evidence import check as check_detector
from wiper_cli.detectors.max_margin import MaxMargin
from wiper_cli.purifiers import METHODS
from wiper_cli.purifiers.methods.clp import CLP
from wiper_cli.purifiers.options import Settings, check, option
from wiper_cli.tables import Table
from wiper_cli.verdict import Problem

ROOT = Path(__file__).resolve().parents[3]
DIGITS = example_folder()


def skeleton(template, name):
    """What tools.new writes, as a module of the plug-in."""
    text = template.format(
        name=name, module=name, Class=name.capitalize(), Words=name.capitalize(), rule="WIPER-TINY-1"
    )
    for home in ("wiper_cli.purifiers.methods", "wiper_cli.detectors"):
        text = text.replace(f"{home}.{name}", f"tiny_plugin.{name}")
    # The method claims to remove backdoors, the detector fires always.
    return text.replace("removal = False", "removal = True").replace("setting(0.9", "setting(-1.0")


FILES = {
    "tiny_plugin/__init__.py": """
import sys
print("tiny_plugin runs", file=sys.stderr)

def methods(piece):
    from wiper_cli.purifiers import METHODS
    return list(METHODS)
""",
    "tiny_plugin/shrink/__init__.py": skeleton(new.PURIFIER, "shrink"),
    "tiny_plugin/shrink/method.py": skeleton(new.PURIFIER_METHOD, "shrink"),
    "tiny_plugin/loud/__init__.py": skeleton(new.DETECTOR, "loud"),
    "tiny_plugin/loud/method.py": skeleton(new.DETECTOR_METHOD, "loud"),
    "tiny_plugin/stripe.py": skeleton(new.TRIGGER, "stripe"),
    "tiny_plugin/leaves.py": "import sys; sys.exit()",
    "tiny_plugin-1.dist-info/METADATA": "Metadata-Version: 2.1\nName: tiny-plugin\nVersion: 1\n",
    "tiny_plugin-1.dist-info/entry_points.txt": """
[wiper.purifiers]
shrink = tiny_plugin.shrink:Shrink
missing = tiny_plugin.missing:Missing
clp = tiny_plugin.shrink:Shrink

[wiper.detectors]
loud = tiny_plugin.loud:Loud
max-margin = wiper_cli.detectors.max_margin:MaxMargin
leaves = tiny_plugin.leaves:Leaves

[wiper.triggers]
stripe = tiny_plugin.stripe:Stripe
ring = tiny_plugin.shrink:Shrink
""",
}
BROKEN = ("missing", "clp", "max-margin", "leaves", "ring")


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    for name, text in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


@pytest.fixture
def run(installed, tmp_path):
    """``run(*arguments, **environment)``: the command in a process of its own, in an empty folder."""

    def wiper(*arguments, **environment):
        path = os.pathsep.join([str(ROOT), str(installed)])
        return subprocess.run(
            [sys.executable, "-m", "wiper_cli.main", *map(str, arguments)],
            env={**os.environ, "PYTHONPATH": path, **environment}, capture_output=True, text=True,
            cwd=tmp_path,
        )  # fmt: skip

    return wiper


def test_nothing_of_a_plugin_runs_unless_it_is_named(run):
    for command in (["purify", "--help"], ["triggers"], ["doctor"]):
        done = run(*command)
        assert done.returncode == 0
        assert "tiny_plugin" not in done.stderr
        assert not {"shrink", "loud", "stripe"} & set(done.stdout.replace(",", " ").split())


@pytest.mark.parametrize(
    "named", [{"arguments": ["--plugin", "tiny-plugin"]}, {"WIPER_PLUGIN": "tiny-plugin"}]
)
def test_what_it_offers_joins_and_what_is_broken_is_one_warning(run, named):
    named = dict(named)
    arguments = named.pop("arguments", [])
    done = run(*arguments, "purify", "--help", **named)
    assert done.returncode == 0
    assert "lmr, shrink." in " ".join(done.stdout.split())
    own = run(*arguments, "purify", "--method", "shrink", "--help", **named).stdout
    assert "[default: 0.9]" in " ".join(own.split())
    said = done.stderr.splitlines()
    assert (said.pop(0), len(said)) == ("tiny_plugin runs", len(BROKEN))
    for name, sentence in zip(BROKEN, said, strict=True):
        assert sentence.startswith(f"wiper: The plug-in tiny-plugin brings no {name} to wiper.")
    assert "stripe" in run(*arguments, "triggers", **named).stdout
    assert "WIPER-TINY-1" in run(*arguments, "rules", **named).stdout


def test_a_method_reaches_the_worker_and_the_file(run, tmp_path, few_digits):
    out = tmp_path / "out.onnx"
    done = run(
        "--plugin", "tiny-plugin", "purify", DIGITS / "model.onnx", "--clean", few_digits, "-o", out,
        "--method", "shrink", "--factor", "0.75", "--detectors", "none", "--accept-unverified", "-q",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    heads = []
    for path in (DIGITS / "model.onnx", out):
        values = {one.name: onnx.numpy_helper.to_array(one) for one in onnx.load(path).graph.initializer}
        heads.append(next(value for name, value in values.items() if value.ndim == 2))
    assert (heads[1] == heads[0] * 0.75).all()


def test_a_detector_is_judged_and_its_rule_explained(run, few_digits):
    done = run(
        "--plugin", "tiny-plugin", "scan", DIGITS / "model.safetensors", "--clean", few_digits,
        "--detectors", "loud", "-f", "json=report.json", "-f", "sarif", "-q",
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    sarif = json.loads(done.stdout)
    rules = sarif["runs"][0]["tool"]["driver"]["rules"]
    assert "One class is answered too often" in [rule["shortDescription"]["text"] for rule in rules]
    assert run("report", "report.json").returncode == 0  # without the plug-in


def test_bench_plans_it_and_its_processes_know_it(run, installed):
    done = run("--plugin", "tiny-plugin", "bench", "table2", "-o", "results", "--list")
    assert any(".shrink." in line for line in done.stdout.splitlines())
    code = (
        "from wiper_cli.jobs.local import fan_out; from wiper_cli.tables.plugins import activate; import tiny_plugin\n"
        "activate(['tiny-plugin']); print([found[-1] for _, found in fan_out([1, 2], tiny_plugin.methods, jobs=2)])"
    )
    path = os.pathsep.join([str(ROOT), str(installed)])
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True
    )
    assert done.stdout.strip() == "['shrink', 'shrink']", done.stderr


def test_only_a_settings_file_that_is_given_may_name_one(run, tmp_path):
    (tmp_path / "wiper.toml").write_text("plugin = 'tiny-plugin'\n")
    for command in ("purify", "scan"):
        done = run(command, "m.onnx", *(["-o", "out"] if command == "purify" else []))
        assert done.returncode == 2
        assert "its plugin could run a program" in done.stderr
        assert "tiny_plugin runs" not in done.stderr
    given = ["--config", "wiper.toml", "--method", "shrink", "--factor", "0.9", "--show-settings"]
    done = run("purify", "m.onnx", "-o", "out", *given)
    assert "method_factor = 0.9  (command line)" in done.stdout, done.stderr
    assert len(done.stderr.splitlines()) == 1 + len(BROKEN)
    (tmp_path / "wiper.toml").write_text("plugin = 3\n")
    assert "plugin must be a name or a list" in run("scan", "m.onnx", "--config", "wiper.toml").stderr


@pytest.mark.parametrize(
    ("name", "said"), [("absent-plugin", "is not installed"), ("click", "is no plug-in")]
)
def test_a_plugin_that_is_none_is_wrong_usage(run, name, said):
    done = run("--plugin", name, "triggers")
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr


def test_a_row_replaces_none():
    table = Table({"clp": "wiper_cli.purifiers.methods.clp:CLP"})
    with pytest.raises(ValueError, match="clp is taken"):
        table.join("clp", "elsewhere:Other")
    assert table["clp"] is CLP


def method(**changes):
    """A class of settings that keeps the contract, but for ``changes``."""
    facts = {"name": "mine", "title": "Mine", "needs": frozenset({"body"}), "run": lambda self, task: None}
    kind = type("Mine", (Settings,), {"__annotations__": {}, **facts, **changes})
    return dataclass(frozen=True)(kind)


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (3, "no dataclass"),
        (type("Plain", (Settings,), {}), "no dataclass"),
        (method(name="yours"), "called yours"),
        (method(title=""), "no title"),
        (method(run=Settings.run), "method"),
        (method(needs=frozenset({"trigger"})), "nothing gives it trigger"),
        (method(presets={"paper": {"alpha": 1}}), "alpha"),
        (method(__annotations__={"rank": "int"}, rank=3), "not made by option"),
        (method(__annotations__={"rank": "list"}, rank=option((), "Ranks.")), "--rank would be of a type"),
        (method(__annotations__={"lr": "int"}, lr=option(1, "Rate.")), "--lr is of another type"),
        (method(__annotations__={"seed": "int"}, seed=option(1, "Seed.")), "--seed is an option"),
        (method(__annotations__={"rank": "int"}, rank=option(0, "Rank.", 1)), "--rank of mine must be"),
    ],
)
def test_what_cannot_be_a_method(kind, said):
    assert check("mine", method(), METHODS.values(), {"--seed"})
    with pytest.raises((TypeError, ValueError, Problem, ModuleNotFoundError), match=said):
        check("mine", kind, METHODS.values(), {"--seed"})


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"name": "yours"}, "called yours"),
        ({"says": ""}, "no words"),
        ({"rule": None}, "no rule"),
        ({"run": Detector.run}, "method"),
        ({"__annotations__": {"effort": "int"}, "effort": setting(1, "")}, "no help"),
    ],
)
def test_what_cannot_be_a_detector(changes, said):
    def kind(**changes):
        facts = {"name": "mine", "title": "t", "says": "s", "rule": MaxMargin.rule, "run": lambda *_: None}
        return dataclass(frozen=True)(type("Mine", (Detector,), {"__annotations__": {}, **facts, **changes}))

    assert check_detector("mine", kind())
    with pytest.raises((TypeError, ValueError, ModuleNotFoundError), match=said):
        check_detector("mine", kind(**changes))
    with pytest.raises(TypeError, match="no dataclass"):
        check_detector("mine", 3)
