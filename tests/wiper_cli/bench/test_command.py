import pytest
from click.testing import CliRunner

from wiper_cli.bench import matrix, plans
from wiper_cli.bench.matrix import Attack, Grid, Scale, Table, Treatment
from wiper_cli.bench.running import run
from wiper_cli.bench.store import Store
from wiper_cli.commands.bench import bench
from wiper_cli.verdict import ExitCode, Problem

SUITE = """
name = "colours"
[defaults]
data = "colours"
arch = "resnet10-patch-w4"
schedule = { epochs = 2, batch = 16, lr = 0.05 }
[[models]]
attack = ["badnet", "blend"]
planting = { rate = 0.2 }
"""
GRID = Grid(
    "Two attacks", (Attack("BadNet", "badnet"), Attack("BA", "blend")),
    (Treatment("Before"), Treatment("CLP", "clp")), data="colours",
)  # fmt: skip


@pytest.fixture
def colours(tmp_path, monkeypatch):
    (tmp_path / "colours.toml").write_text(SUITE)
    scales = {**matrix.SCALES, "colours": Scale(str(tmp_path / "colours.toml"), ("colours",), 30)}
    monkeypatch.setattr(matrix, "SCALES", scales)
    monkeypatch.setattr(plans, "TABLES", {**plans.TABLES, "two": Table("two", "Two attacks", (GRID,))})


@pytest.fixture
def call(colours, made, tmp_path):
    def run(*arguments):
        fixed = ["--scale", "colours", "--zoo", made / "zoo", "--root", made, "--device", "cpu", "-q"]
        return CliRunner().invoke(bench, [*map(str, [*arguments, *fixed, "-o", tmp_path / "out"])])

    return run


@pytest.mark.slow
def test_runs_what_is_missing_and_renders(call, tmp_path, badnet):
    assert "missing" in call("two", "--list").stdout
    first = call("two")
    assert first.exit_code == 0, first.output
    assert first.stdout.strip() == str(tmp_path / "out" / "two-colours.md")
    assert "Skipped 1 cells: the zoo has no colours-resnet10-patch-w4-blend-rate0.2-s1" in first.stderr
    store = Store(tmp_path / "out", "colours")
    (cell,) = store.cells()
    assert cell.specimen == badnet
    page = (tmp_path / "out" / "two-colours.md").read_text()
    assert "Nothing was run on colours-resnet10-patch-w4-blend-rate0.2-s1." in page
    before = store.path.read_text()
    assert "1 of 2 cells stand already." in call("two").stderr
    assert store.path.read_text() == before
    assert f"stands   {cell.id}" in call("two", "--list").stdout


def test_render_only_runs_nothing(call, tmp_path):
    assert call("two", "--render-only").exit_code == 0
    assert not list((tmp_path / "out").glob("cells*"))
    assert "0 of 2 cells stand." in (tmp_path / "out" / "two-colours.md").read_text()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["tow"], "no table or figure 'tow'; the nearest is 'two'"),
        (["two", "--only", "nothing like it"], "called like 'nothing like it'"),
        (["two", "--seeds", "1,x"], "--seeds takes whole numbers"),
    ],
)
def test_slips_are_sentences(call, arguments, sentence):
    problem = call(*arguments).exception
    assert isinstance(problem, Problem)
    assert sentence in str(problem)


def test_without_a_zoo_nothing_runs(colours, tmp_path):
    found = CliRunner().invoke(bench, ["two", "--scale", "colours", "-o", str(tmp_path)])
    assert isinstance(found.exception, Problem)
    assert "--zoo DIR" in str(found.exception)
    assert found.exception.exit_code == ExitCode.USAGE


@pytest.mark.slow
def test_a_fleet_gives_the_same(call, place, tmp_path, monkeypatch):
    pytest.importorskip("ray")
    monkeypatch.setenv("RAY_worker_niceness", "0")  # by default its workers yield to all other processes
    found = call("two", "--ray", "local")
    assert found.exit_code == 0, found.output
    assert found.stdout.strip() == str(tmp_path / "out" / "two-colours.md")
    store = Store(tmp_path / "out", "colours")
    (cell,) = store.cells()
    there, here = store.read(cell), run(cell, place)
    assert (there["run"]["threads"], there["after"], there["edit"]) == (1, here["after"], here["edit"])
