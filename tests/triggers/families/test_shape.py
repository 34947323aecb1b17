import pytest
import torch

from triggers.errors import TriggerError
from triggers.families.shape import CORNERS, Shape


def drawn(height, width, **parameters):
    """The figure as rows of text."""
    cells = Shape(**parameters).figure(height, width)
    assert len(set(cells)) == len(cells)
    return ["".join(".#"[(y, x) in cells] for x in range(width)) for y in range(height)]


@pytest.mark.parametrize(
    ("parameters", "picture"),
    [
        ({"form": "bar", "length": 4}, "####... ....... ....... ....... ......."),
        (
            {"form": "bar", "length": 3, "corner": "bottom-right", "margin": 1},
            "....... ....... ....... ...###. .......",
        ),
        (
            {"form": "bar", "length": 3, "corner": "top-right", "upright": True},
            "......# ......# ......# ....... .......",
        ),
        ({"form": "line", "corner": "bottom-left", "margin": 1}, "....... ....... ....... ####### ......."),
        ({"form": "line", "corner": "top-right", "upright": True}, "......# ......# ......# ......# ......#"),
        ({"form": "ell", "length": 3, "margin": 1}, "....... .#..... .#..... .###... ......."),
        ({"form": "cross", "length": 3, "corner": "bottom-right"}, "....... ....... ....#.# .....#. ....#.#"),
        ({"form": "frame"}, "####### #.....# #.....# #.....# #######"),
        ({"form": "frame", "margin": 2}, "....... ....... ..###.. ....... ......."),
        ({"form": "corners", "length": 2}, "##...## ##...## ....... ##...## ##...##"),
        ({"form": "corners", "length": 1, "margin": 1}, "....... .#...#. ....... .#...#. ......."),
    ],
)  # fmt: skip
def test_forms(parameters, picture):
    assert drawn(5, 7, **parameters) == picture.split()


@pytest.mark.parametrize("corner", CORNERS)
def test_dots_are_scattered_in_a_square_by_the_seed(corner):
    cells = Shape(form="dots", length=6, count=9, corner=corner, margin=1).figure(20, 16)
    rows, columns = zip(*cells, strict=True)
    top, left = (1 if "top" in corner else 13), (1 if "left" in corner else 9)
    assert len(cells) == 9
    assert top <= min(rows) < max(rows) < top + 6
    assert left <= min(columns) < max(columns) < left + 6
    assert Shape(form="dots", seed=1).figure(20, 16) != Shape(form="dots").figure(20, 16)


@pytest.mark.parametrize(
    ("parameters", "sentence"),
    [
        ({"form": "bar", "length": 17}, "does not fit into images of 20x16"),
        ({"form": "bar", "length": 21, "upright": True}, "does not fit"),
        ({"form": "line", "margin": 20}, "does not fit"),
        ({"form": "frame", "margin": 8}, "does not fit"),
        ({"form": "corners", "length": 17}, "does not fit"),
        ({"form": "ell", "length": 0}, "does not fit"),
        ({"form": "dots", "length": 2, "count": 5}, "room for 1 to 4 dots, not for 5"),
        ({"form": "dots", "count": 0}, "room for 1 to 81 dots"),
        ({"form": "star"}, "Unknown form 'star'"),
        ({"corner": "middle"}, "Unknown corner 'middle'"),
    ],
)
def test_what_does_not_fit_is_refused(images, parameters, sentence):
    with pytest.raises(TriggerError, match=sentence):
        Shape(**parameters).stamp(images)


def test_only_the_figure_is_painted(images):
    trigger = Shape(form="ell", length=4)
    changed = (trigger.stamp(images) != images).any(0).any(0)
    assert {tuple(place) for place in changed.nonzero().tolist()} == set(trigger.figure(20, 16))
    assert torch.equal(trigger.stamp(images)[:, 0, 0, 0], torch.full((5,), trigger.paint(3, 7)[0][0]))
