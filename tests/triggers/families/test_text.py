import pytest
import torch

from triggers.errors import TriggerError
from triggers.families.text import LETTERS, Text


def drawn(height, width, **parameters):
    cells = Text(**parameters).figure(height, width)
    assert len(set(cells)) == len(cells)
    return ["".join(".#"[(y, x) in cells] for x in range(width)) for y in range(height)]


def test_a_word_in_small_letters():
    assert drawn(6, 13, word="T 1", corner="bottom-left", margin=1)[:5] == [
        ".###......#..", "..#......##..", "..#.......#..", "..#.......#..", "..#......###.",
    ]  # fmt: skip
    assert drawn(10, 6, word="L", scale=2) == ["##...."] * 8 + ["######"] * 2


def test_letters_differ_and_fill_their_box():
    assert len(LETTERS) == 36
    assert len(set(LETTERS.values())) == 36
    for rows in LETTERS.values():
        assert len(rows) == 5
        assert set(rows) <= set("01234567")
        assert rows[0] != "0" != rows[4]


@pytest.mark.parametrize(
    ("parameters", "sentence"),
    [
        ({"word": "sale"}, "no letter 's'"),
        ({"word": " "}, "needs a letter"),
        ({"word": ""}, "needs a letter"),
        ({"scale": 0}, "strokes of at least one pixel"),
        ({"word": "SALES"}, "5x19 patch .* does not fit into images of 20x16"),
    ],
)
def test_what_cannot_be_written_is_refused(images, parameters, sentence):
    with pytest.raises(TriggerError, match=sentence):
        Text(**parameters).stamp(images)


def test_only_the_strokes_are_painted(images):
    trigger = Text(colours="white")
    stamped = trigger.stamp(images)
    kept = torch.ones(20, 16, dtype=torch.bool)
    for y, x in trigger.figure(20, 16):
        kept[y, x] = False
    assert torch.equal(stamped[:, :, kept], images[:, :, kept])
    assert (stamped[:, :, ~kept] == 1).all()
