import math
import unicodedata

import pytest

from wiper_cli.reports.plain import finite, number, percent, plain, seconds, size, words


def test_every_character_that_cannot_be_seen_is_replaced():
    for point in range(0x110000):
        character = chr(point)
        category = unicodedata.category(character)
        if category in ("Cc", "Cf", "Cs", "Zl", "Zp"):
            shown = plain(f"a{character}b")
            assert character not in shown, hex(point)
            assert shown in ("a b", "a\ufffdb")


@pytest.mark.parametrize(
    "hidden", ["\u202e", "\u2066", "\u200b", "\x1b", "\x9b", "\x00", "\ud800", "\U000e0041"]
)
def test_hidden_characters_leave_a_mark(hidden):
    assert plain(f"a{hidden}b") == "a\ufffdb"


def test_white_space_is_one_space_and_letters_stay():
    assert (plain(" a\r\n\tb\u2028c "), plain("Größe 猫 é")) == ("a b c", "Größe 猫 é")


def test_long_names_are_cut_and_say_so():
    assert (plain("x" * 10_000, 20), plain("x" * 20, 20)) == ("x" * 20 + "… (10,000 characters)", "x" * 20)


def test_finite_replaces_what_json_cannot_say():
    value = {"a": [1.5, math.nan, (math.inf, -math.inf)], "b": {"c": "NaN", "d": True}}
    assert finite(value) == {"a": [1.5, None, [None, None]], "b": {"c": "NaN", "d": True}}


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (percent(0.9312), "93.1%"),
        (percent(None), "not measured"),
        (percent(0), "0.0%"),
        (number(9.9), "9.9"),
        (number(2.4e-6), "2.4e-06"),
        (number(11181642), "11,181,642"),
        (number(12345.6), "12,346"),
        (number(None), "not measured"),
        (size(912), "912 bytes"),
        (size(44_700_000), "44.7 MB"),
        (size(3.2e9), "3.2 GB"),
        (seconds(12.25), "12.2 s"),
        (seconds(185), "3 min 05 s"),
        (words(True), "yes"),
        (words(None), "not measured"),
        (words({"rank_correlation": 0.41}), "rank correlation 0.41"),
        (words(list(range(10))), "0, 1, 2, 3, 4, 5, 6, 7, … (10 in all)"),
        (words([]), ""),
    ],
)
def test_numbers_are_written_one_way(written, expected):
    assert written == expected
