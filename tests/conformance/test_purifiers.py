"""What every purifier keeps, over the table of methods: nothing here names one."""

import re
from importlib import import_module
from pathlib import Path

import pytest

from wiper_cli.purifiers import METHODS


@pytest.mark.parametrize("name", METHODS)
def test_what_it_takes_of_a_task_is_what_it_says(name):
    kind = METHODS[name]
    text = Path(import_module(f"{kind.__module__}.method").__file__).read_text("utf-8")
    assert kind.uses_scan == bool(re.search(r"task\.(suspects|recovered)", text))
    assert ("triggered" in kind().needs) == ("task.triggered" in text)
