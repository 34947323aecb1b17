import pytest

from wiper_cli.bench.cells import DEFAULT, Cell
from wiper_cli.bench.matrix import SCALES, Attack, Treatment, cells_of, cuts, entries, printed, scale_of
from wiper_cli.bench.plans import ALIASES, BASELINES, SIX, TABLES, TEN, drawn, find
from wiper_cli.purifiers import METHODS
from wiper_cli.verdict import Problem
from wiper_cli.zoo.recipe import Recipe

NAMES = ["Before", *(one.title for one in BASELINES)]


@pytest.mark.parametrize("name", ["table1", "table2", "table3"])
def test_the_papers_numbers_are_whole(name):
    values = printed()[name]["values"]
    assert list(values) == [attack.title for attack in TEN]
    for by_defence in values.values():
        assert list(by_defence) == NAMES
        assert all(len(pair) == 2 and all(0 <= v <= 100 for v in pair) for pair in by_defence.values())


@pytest.mark.parametrize(
    ("name", "attack", "treatment", "pair"),
    [
        ("table1", "IA", "Fine-Pruning", [94.23, 87.53]),
        ("table1", "LogitAttack", "WIPER", [93.51, 2.14]),
        ("table2", "BadNet", "Before", [87.42, 99.5]),
        ("table2", "IMC", "IBAU", [44.54, 15.87]),
        ("table3", "SSA", "NAD", [30.45, 0.21]),
        ("table4", "TrojanNN", "Ours + AM", [83.09, 55.32]),
        ("table5", "BA", "alpha 0.001", [84.09, 86.74]),
        ("table6", "TrojanNN", "FC + 4 Conv", [72.73, 4.67]),
        ("table9", "IA", "Purifying + BS", [94.23, 9.48]),
        ("table10", "ETA", "Pruning + AM", [62.89, 37.63]),
        ("appendix3", "BadNet", "Shapley Value", [82.89, 4.92, 968.17]),
        ("appendix4", "SSA", "AI-Lancet", [68.47, 22.14]),
        ("field", "LC", "Fine-Pruning", [89.53, 0.46, 13.32]),
        ("field", "Blended", "SAU", [90.96, 6.14]),
    ],
)
def test_numbers_by_eye(name, attack, treatment, pair):
    assert printed()[name]["values"][attack][treatment] == pair


def test_the_two_copies_of_a_row_that_should_not_be_one_are_kept():
    values = printed()["table2"]["values"]
    assert values["IA"]["Before"] == values["TrojanNN"]["Before"]
    assert any("IA and TrojanNN" in note for note in printed()["table2"]["footnotes"])


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)
def test_every_printed_number_has_its_place(table):
    for grid in table.grids:
        if not grid.printed:
            continue
        values = printed()[grid.printed]["values"]
        attacks = {attack.paper or attack.title for attack in grid.attacks}
        treatments = {treatment.paper or treatment.title for treatment in grid.treatments}
        assert set(values) <= attacks
        assert {name for row in values.values() for name in row} <= treatments
        assert printed()[grid.printed]["data"] == grid.data


def test_every_table_and_figure_of_the_paper_is_there():
    assert {f"table{n}" for n in range(1, 11)} <= {*TABLES, *ALIASES}
    assert {f"figure{n}" for n in range(1, 11)} <= {*TABLES, *ALIASES}
    assert {"field", "ablations", "cost"} <= set(TABLES)
    assert set(ALIASES.values()) <= set(TABLES)
    assert find("table8") is TABLES["table3"]


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)
def test_titles_tell_apart(table):
    for grid in table.grids:
        for lines in (grid.attacks, grid.treatments):
            titles = [line.title for line in lines]
            assert len(set(titles)) == len(titles)


def test_table_2_has_every_method():
    assert {cell.name for cell in cells_of(TABLES["table2"], "tiny")} == set(METHODS)


def test_a_mistyped_name_gives_the_nearest():
    with pytest.raises(Problem, match="no table or figure 'tabel2'; the nearest is 'table2'"):
        find("tabel2")
    with pytest.raises(Problem, match="no scale 'tinny'; the nearest is 'tiny'"):
        scale_of("tinny")


def test_the_same_cell_serves_several_tables():
    wiper = {c for c in cells_of(TABLES["table2"], "tiny") if c.name == "wiper" and c.preset == "paper"}
    six = {c for c in cells_of(TABLES["table5"], "tiny") if not c.settings}
    assert six <= wiper
    assert (len(six), six) == (len(SIX), {c for c in cells_of(TABLES["table6"], "tiny") if not c.settings})


def test_a_scale_without_the_data_has_no_cells():
    assert cells_of(TABLES["table1"], "tiny") == []
    assert {cell.specimen.split("-")[0] for cell in cells_of(TABLES["table1"], "paper")} == {"svhn"}
    assert all(entry.specimen is None for entry in entries(TABLES["table3"].grids[0], "tiny"))


def test_every_scale_has_the_papers_ten():
    for name in ("tiny", "small", "paper"):
        grid = TABLES["table2"].grids[0]
        lacking = {e.attack.title for e in entries(grid, name) if e.specimen is None}
        assert not lacking & {attack.title for attack in TEN}, name


def test_what_exceeds_a_scale_is_cut():
    scale = SCALES["tiny"]
    cell = Treatment("", "fine-tuning", "field").cell("s", 1, scale)
    assert (cell.purifier().epochs, cuts(cell, scale)) == (scale.caps["fine-tuning"]["epochs"], {})
    assert Treatment("", "fine-tuning", "paper").cell("s", 1, scale).settings == ()
    assert cuts(Cell("s", "no-method"), SCALES["tiny"]) == {}


def test_what_is_cut_may_go_faster():
    scale = SCALES["tiny"]
    cut = Treatment("", "sau", "field").cell("s", 1, scale).purifier()
    assert (cut.epochs, cut.lr, Treatment("", "sau", DEFAULT).cell("s", 1, scale).settings) == (10, 1e-3, ())
    assert Treatment("", "sau", "field").cell("s", 1, SCALES["field"]).settings == ()


def test_seeds_make_cells_of_their_own():
    one, three = (cells_of(TABLES["table4"], "tiny", seeds) for seeds in ((1,), (1, 2, 3)))
    assert len(three) == 3 * len(one) == len(set(three))


def test_a_row_takes_the_recipe_without_a_label_first():
    def recipe(label="", **planting):
        return Recipe("cifar10", "a", "sinusoid", poisoning=planting, label=label)

    plain, strong, dirty = recipe(), recipe("strong"), recipe("dirty", policy="dirty")
    row = Attack("SIG", "sinusoid")
    assert row.find([dirty, strong, plain], "cifar10") is plain
    assert row.find([dirty, strong], "cifar10") is strong
    assert row.find([dirty], "cifar10") is None
    assert row.find([plain], "svhn") is None
    assert row.find([recipe(labelling="all-to-all")], "cifar10") is None
    assert Attack("SIG", "sinusoid", label="dirty").find([plain, dirty], "cifar10") is dirty


def test_a_figure_draws_the_units_of_few_cells():
    every = {cell for table in TABLES.values() for cell in cells_of(table, "tiny", (3,), 100)}
    assert sorted([cell.name for cell in every if drawn(cell, "tiny")]) == ["am", "bs", "gradient"]
    assert not any(drawn(cell, "field") for cell in every)
