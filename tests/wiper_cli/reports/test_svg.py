import re
from xml.etree import ElementTree

import pytest

from wiper_cli.reports import svg
from wiper_cli.reports.story import Rate


def parsed(drawing):
    return ElementTree.fromstring(str(drawing))


def test_every_drawing_is_well_formed():
    for drawing in (
        *(svg.icon(name) for name in ("no_finding", "suspicious", "malicious", "incomplete")),
        *(svg.mark(name) for name in ("critical", "high", "medium", "low", "info")),
        svg.slope(Rate(0.9, 0.8, 0.95, 10), Rate(0.1), Rate(0.05)),
        svg.slope(None, Rate(0.1)),
        svg.level(Rate(0.5, 0.4, 0.6, 10)),
        svg.strip([1.0, None, -2.0], 0.5, 0, ["<a>", "b", "c"]),
        svg.bars([0.5, None, -0.25], [0]),
        svg.curves([("a", [1.0, None, 2.0]), ("b", [3.0])], 0.0, 3.0, False),
        svg.sample(2),
    ):
        parsed(drawing)


def test_a_falling_rate_goes_down():
    circles = parsed(svg.slope(Rate(0.9), Rate(0.1))).findall("circle")
    before, after = (float(circle.get("cy")) for circle in circles)
    assert before == pytest.approx(126 - 112 * 0.9, abs=0.01)
    assert after == pytest.approx(126 - 112 * 0.1, abs=0.01)


def test_bars_are_sorted_and_signed():
    drawing = parsed(svg.bars([0.1, 0.5, -0.25, 0.3]))
    paths = {path.get("class"): path.get("d") for path in drawing.iter("path")}
    tops = [float(top) for top in re.findall(r"M\d+ ([\d.]+)h", paths["up"])]
    assert (len(tops), tops, tops[0]) == (3, sorted(tops), 10)
    assert paths["down"].startswith("M3 150")


def test_marked_units_are_marked_where_they_stand():
    drawing = parsed(svg.bars([0.1, 0.5, -0.25, 0.3], marked=[1, 2]))
    ticks = next(path.get("d") for path in drawing.iter("path") if path.get("class") == "ticks")
    assert re.findall(r"M([\d.]+) ", ticks) == ["0.4", "3.4"]


def test_bars_in_a_given_order():
    drawing = svg.bars([0.1, 0.5, -0.25, 0.3], [0], [3, 2, 0, 1], "AM, triggered images")
    paths = {path.get("class"): path.get("d") for path in parsed(drawing).iter("path")}
    assert re.findall(r"M(\d+) ", paths["up"]) == ["0", "2", "3"]
    assert paths["down"].startswith("M1 ")
    assert re.findall(r"M([\d.]+) ", paths["ticks"]) == ["2.4"]
    assert "AM, triggered images of 4 units, by clean images" in drawing
    assert "most salient" not in drawing


def test_labels_of_an_axis_do_not_run_into_one_another():
    assert parsed(svg.bars([1.0, -0.01])).findall("text[@text-anchor='end']")[1].text == "1"
    texts = [text.text for text in parsed(svg.bars([8.4e-7, -6e-7])).iter("text")]
    assert "8.4e\N{MINUS SIGN}7" in texts
    assert "\N{MINUS SIGN}6e\N{MINUS SIGN}7" in texts
    assert len([t for t in svg.bars([1.0, -0.01]).split("<text") if "0.01" in t]) == 0


def test_ranked_is_stable_and_leaves_out_what_was_not_measured():
    assert svg.ranked([1.0, None, 2.0, 1.0]) == [2, 0, 3]


def test_the_threshold_and_the_target_are_named():
    drawing = svg.strip([9.9, 0.4, 1.0], 4.0, 0, ["<airplane>", "b", "c"])
    assert "threshold 4" in drawing
    assert "&lt;airplane&gt;" in drawing
    flag = next(
        inner for inner in parsed(drawing).iter("svg") if inner.find("path[@class='flag']") is not None
    )
    assert float(flag.get("y")) < float(parsed(drawing).find("line[@class='threshold']").get("y1"))


def test_a_thousand_classes_stay_small():
    assert len(svg.strip([float(index % 7) for index in range(1000)], 3.0, 5, [])) < 60_000
    assert len(svg.bars([float(index) for index in range(4096)])) < 200_000


def test_nothing_measured_draws_nothing():
    assert (svg.strip([None, None], 1.0, None, []), svg.bars([None])) == ("", "")


def test_a_path_is_drawn_row_by_row_and_names_in_it_are_inert():
    steps = [
        {"operator": "image", "place": "x", "mark": ""},
        {"operator": "<script>", "place": '"><b>', "mark": "x y"},
    ]
    steps += [{"operator": "Conv", "place": "", "mark": "weighted"}] * 6 + [
        {"operator": "Add", "mark": "join"}
    ]
    drawn = str(svg.chain(steps))
    assert drawn.count("<rect") == 9
    assert drawn.count("→") == 8
    assert ("<script>" in drawn, "<b>" in drawn, "x y" in drawn) == (False, False, False)
    assert 'class="box join"' in drawn
