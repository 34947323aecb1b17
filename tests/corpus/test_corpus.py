"""The gate over every hostile file of the tests: each is refused by the rule and with the exit code that it has."""

from __future__ import annotations

import hashlib
import json
import os

import pytest

from formats.identify import RULES, inspect
from formats.kinds import KINDS, reader
from formats.model import Source
from formats.polyglot import RULES as POLYGLOTS
from tests.corpus.cases import WAYS, cases, plain, with_code
from tests.formats.torchscript import test_code


@pytest.fixture
def folders(tmp_path):
    """Folder → case. A model and what lies beside it, in a folder each."""
    (tmp_path / "secret").write_bytes(bytes(1000))
    made = {}
    for number, case in enumerate(cases().values()):
        folder = tmp_path / str(number)
        folder.mkdir()
        for name, data in {**case.beside, "m.onnx": case.data}.items():
            (folder / name).write_bytes(data)
        (folder / "symbolic").symlink_to(tmp_path / "secret")
        os.link(tmp_path / "secret", folder / "hard")
        (folder / "folder").mkdir()
        os.mkfifo(folder / "pipe")
        made[folder] = case
    return made


def told(report):
    """Exit code and rule of a report."""
    rules = [finding["rule"] for finding in report["findings"]]
    return rules[0] if report["exit_code"] == 1 and len(rules) == 1 else str(report["exit_code"])


@pytest.mark.usefixtures("child")
def test_every_hostile_file_is_refused_by_its_rule(wiper, folders):
    models = [folder / "m.onnx" for folder in folders]
    code, out, err = wiper("inspect", "--static", *models, "-f", "json")
    reports = json.loads(out)["reports"]
    found = {name: told(report) for name, report in zip(cases(), reports, strict=True)}
    assert found == {name: case.expected for name, case in cases().items()}
    assert code == 1
    assert all(len(line) < 1000 for line in err.splitlines())


def test_the_cases_are_many_and_no_two_are_one_file():
    digests = {
        hashlib.sha256(case.data + b"".join(case.beside.values())).digest() for case in cases().values()
    }
    assert len(digests) == len(cases()) >= 400
    assert set(WAYS) <= {name.partition(": ")[2] for name in cases()}


def test_every_rule_has_a_case():
    known = {*RULES, *POLYGLOTS}.union(*(reader(kind).RULES for kind in KINDS))
    assert known - {case.expected for case in cases().values()} == set()


def test_what_the_cases_are_made_of_is_accepted():
    """Else they would be refused for the wrong reason."""
    for body in test_code.ACCEPTED.values():
        inspect(Source("m", with_code(test_code.files(body.strip()))))
    inspect(Source("m", plain()))
