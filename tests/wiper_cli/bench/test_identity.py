import json
import sys
from dataclasses import replace

import pytest

from wiper_cli.bench import identity
from wiper_cli.bench.cells import SCANNED, Cell
from wiper_cli.bench.identity import changes, normalised, sha256_of
from wiper_cli.purifiers import METHODS

SETTINGS = '''
"""A method."""
from dataclasses import dataclass
from wiper_cli.purifiers.options import Settings, option

@dataclass(frozen=True)
class Mine(Settings):
    """It does nothing."""
    name = "mine"
    presets = {"strong": {"rate": 2.0}}
    rate: float = option(1.0, "How fast.")
'''
METHOD = '''
def purify(settings, task):
    """Nothing."""
    return settings.rate * 2  # twice
'''
CELL = Cell("some-specimen-s1", "mine")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A method of its own, as a package."""
    own = tmp_path / "my_method"
    own.mkdir()
    (own / "__init__.py").write_text(SETTINGS)
    (own / "method.py").write_text(METHOD)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(METHODS._rows, "mine", "my_method:Mine")
    yield own
    sys.modules.pop("my_method", None)
    identity._digest.cache_clear()


def edit(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    identity._digest.cache_clear()


def test_another_default_makes_a_cell_stale(folder, monkeypatch):
    for cell, expected in (
        (CELL, ("mine rate was 1.0 and is 1.5",)),
        (replace(CELL, settings=(("rate", 1.0),)), ()),
        (replace(CELL, preset="strong"), ()),
    ):
        outcome = identity.identity(cell)
        assert changes(cell, outcome) == ()
        with monkeypatch.context() as patch:
            patch.setattr(METHODS["mine"].__init__, "__defaults__", (1.5,))
            assert changes(cell, outcome) == expected


def test_a_new_setting_and_another_preset_make_a_cell_stale(folder, monkeypatch):
    outcome = identity.identity(CELL)
    assert changes(CELL, {**outcome, "settings": {}}) == ("mine rate was absent and is 1.0",)
    strong = replace(CELL, preset="strong")
    outcome = identity.identity(strong)
    monkeypatch.setattr(METHODS["mine"], "presets", {"strong": {"rate": 3.0}})
    assert changes(strong, outcome) == ("mine rate was 2.0 and is 3.0",)
    assert changes(replace(CELL, name="gone"), {"code": "0"}) == ()  # it cannot be run any more


@pytest.mark.parametrize("name", ["__init__.py", "method.py", "more/deep.py"])
def test_another_code_makes_a_cell_stale(folder, name):
    outcome = identity.identity(CELL)
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    with path.open("a") as file:
        file.write("\nx = 1\n")
    assert changes(CELL, outcome) == ()  # what this process has loaded
    identity._digest.cache_clear()
    assert changes(CELL, outcome) == ("code of mine",)


def test_docstrings_comments_and_formatting_do_not(folder):
    outcome = identity.identity(CELL)
    edit(folder / "method.py", '"""Nothing."""', "'''Whatever.'''")
    edit(folder / "method.py", "settings.rate * 2  # twice", "(\n        settings . rate*2\n    )")
    edit(folder / "__init__.py", '"""A method."""\n', "")
    edit(folder / "__init__.py", '    """It does nothing."""\n', "")
    assert changes(CELL, outcome) == ()
    edit(folder / "method.py", "rate*2", "rate*3")
    assert changes(CELL, outcome) == ("code of mine",)


def test_another_model_file_makes_a_cell_stale(folder, tmp_path):
    specimen = tmp_path / CELL.specimen
    specimen.mkdir()
    (specimen / "manifest.json").write_text(json.dumps({"files": {CELL.file: {"sha256": "ab"}}}))
    assert sha256_of(tmp_path, CELL) == "ab"
    assert sha256_of(tmp_path, replace(CELL, specimen="other")) is None
    assert sha256_of(None, CELL) is None
    outcome = {**identity.identity(CELL), "specimen": {"sha256": "ab"}}
    assert changes(CELL, outcome, "ab") == changes(CELL, outcome) == ()
    assert changes(CELL, outcome, "cd") == ("model.safetensors of some-specimen-s1",)


def test_whatever_takes_a_scan_depends_on_the_detectors(monkeypatch):
    scan = CELL.scan()
    assert set(scan.resolved()) == set(SCANNED)
    before = {name: identity.code_of(replace(CELL, name=name)) for name in METHODS}
    old = identity.identity(scan)
    whole = identity.normalised
    monkeypatch.setattr(
        identity, "normalised", lambda source: whole(source) + "more" * ("def look(settings" in source)
    )
    identity._digest.cache_clear()
    try:
        assert changes(scan, old) == ("code of detectors",)
        after = {name: identity.code_of(replace(CELL, name=name)) for name in METHODS}
    finally:
        identity._digest.cache_clear()
    assert {name for name in METHODS if after[name] != before[name]} == {
        name for name, method in METHODS.items() if method.uses_scan
    }


def test_a_metric_has_its_settings_and_its_module():
    bs, am, random = (Cell("s", name, "salience") for name in ("bs", "am", "random"))
    assert identity.code_of(bs) != identity.code_of(am)
    assert (identity.code_of(bs), bs.resolved()) == (identity.code_of(replace(bs, name="mbs")), {})
    assert random.resolved() == {"seed": 0}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("x = 'a'  # why", 'x = "a"'), ("f(a,\n  b,\n)", "f(a, b)"), ("x = f'a' 'b'", "x = f'ab'"),
        ("def f():\n  'doc'\n  return 1", "def f(): return 1"), ("class A:\n  'doc'\n  x: int", "class A:\n    x: int"),
    ],
)  # fmt: skip
def test_one_code_written_in_two_ways_is_one(one, other):
    assert normalised(one) == normalised(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("x = 1", "x = 1.0"), ("x = -1", "x = 1"), ("x = None", "x = False"), ("x = 'doc'", "x = ''"),
        ("a + b", "a - b"), ("f(a, b)", "f(b, a)"), ("f'{x!r}'", "f'{x}'"), ("[1, [2]]", "[[1], 2]"),
        ("if a: b()\nc()", "if a:\n b()\n c()"),
    ],
)  # fmt: skip
def test_two_codes_are_two(one, other):
    assert normalised(one) != normalised(other)


def test_the_same_text_comes_of_every_python():
    source = 'x = f"{y:{w}}a" f"{z!r}" "b"\ndef f(a, *, b=1e400):\n    return a[1:b]\n'
    assert normalised(source) == (
        "Module(body=Assign(targets=Name(id='x';),;value=JoinedStr(values=FormattedValue(value=Name(id='y';);"
        "conversion=-1;format_spec=JoinedStr(values=FormattedValue(value=Name(id='w';);conversion=-1;),;);),"
        "Constant(value='a';),FormattedValue(value=Name(id='z';);conversion=114;),Constant(value='b';),;);),"
        "FunctionDef(name='f';args=arguments(args=arg(arg='a';),;kwonlyargs=arg(arg='b';),;kw_defaults="
        "Constant(value=inf;),;);body=Return(value=Subscript(value=Name(id='a';);slice=Slice(lower="
        "Constant(value=1;);upper=Name(id='b';);););),;),;)"
    )
