import sys

import pytest

from wiper_cli.bench import figures
from wiper_cli.bench.figures import draw
from wiper_cli.bench.matrix import cells_of
from wiper_cli.bench.plans import TABLES
from wiper_cli.bench.standing import Standing
from wiper_cli.rates import Rate
from wiper_cli.verdict import Problem

UNITS = {
    "clean": [0.2, -0.1, 0.3],
    "triggered": [-0.3, 0.4, 0.5],
    "attention": {"image": [[[0, 255]]] * 3, "lowest": [[0.5, 1.0]], "others": [[0.0, 0.1]]},
}


def looks(share):
    return [
        {"epoch": i, "acc": Rate(8, 10).as_dict(), "asr": Rate(round(100 * share / (i + 1)), 100).as_dict()}
        for i in range(3)
    ]


def standing(store, name, seeds=(1,)):
    return Standing.read(TABLES[name], store, seeds)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "count", "more"),
    [("figure5", 3, {}), ("figure8", 2, {"watched": looks(0.5)}), ("figure3", 2, UNITS)],
)
def test_figures_are_the_same_bytes_each_time(store, by_hand, name, count, more):
    pytest.importorskip("matplotlib")
    assert draw(TABLES[name], standing(store, name)) is None
    for cell in cells_of(TABLES[name], "tiny")[:count]:
        by_hand(store, cell, **more)
    drawn = draw(TABLES[name], standing(store, name))
    assert b"<svg" in drawn
    assert drawn == draw(TABLES[name], standing(store, name))


def test_penalties_by_hand(store):
    pytest.importorskip("matplotlib")
    (axis,) = figures.penalties(TABLES["figure1"], standing(store, "figure1")).axes
    curves = {line.get_label(): dict(zip(*line.get_data(), strict=True)) for line in axis.lines}
    assert curves["L1"][-0.5] == curves["AR"][-0.5] == 0.5
    assert (curves["L2"][-0.5], curves["AR"][2.0]) == (0.25, pytest.approx(2.718282))


def test_a_curve_is_the_mean_over_seeds(store, by_hand):
    pytest.importorskip("matplotlib")
    for share, seed in ((0.5, 1), (0.7, 2)):
        by_hand(store, cells_of(TABLES["figure8"], "tiny", (seed,))[0], watched=looks(share))
    figure = figures.regularisers(TABLES["figure8"], standing(store, "figure8", (1, 2)))
    drawn = [line for axis in figure.axes for line in axis.lines if len(line.get_xdata())]
    assert [list(line.get_ydata()) for line in drawn] == [
        [80.0] * 3,
        [60.0, 30.0, pytest.approx(20.0, abs=0.5)],
    ]


def test_points_stand_at_the_images_that_a_method_got(store, by_hand):
    pytest.importorskip("matplotlib")
    for cell in [cell for cell in cells_of(TABLES["figure5"], "tiny") if cell.name == "wiper"][1:3]:
        count = cell.images
        by_hand(store, cell, acc=count / 200, parts={"fit": count - 20, "select": 10, "report": 10})
    figure = figures.ratios(TABLES["figure5"], standing(store, "figure5"))
    lines = [line for line in figure.axes[0].lines if len(line.get_xdata())]
    assert [(line.get_label(), *map(list, line.get_data())) for line in lines] == [
        ("WIPER", [50, 125], [25.0, 62.5])
    ]


def test_units_stand_in_descending_order_of_clean_images(store, by_hand):
    pytest.importorskip("matplotlib")
    by_hand(store, cells_of(TABLES["figure4"], "tiny")[0], **UNITS)
    clean, triggered, *maps = figures.units(TABLES["figure4"], standing(store, "figure4")).axes
    assert [bar.get_height() for bar in clean.patches] == [0.3, 0.2, -0.1]
    assert [bar.get_height() for bar in triggered.patches] == [0.5, -0.3, 0.4]
    assert [axis.images[1].get_array().tolist() for axis in maps] == [[[0.0, 0.1]], [[0.5, 1.0]]]
    assert maps[0].images[0].get_array().tolist() == [[[0.4] * 3, [1.0] * 3]]


def test_without_matplotlib_a_figure_is_refused_in_a_sentence(store, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(Problem, match="pip install matplotlib"):
        draw(TABLES["figure1"], standing(store, "figure1"))
