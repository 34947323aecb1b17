import math
import unicodedata

import pytest

from wiper_cli.reports.plain import (
    bounded,
    finite,
    number,
    percent,
    plain,
    seconds,
    size,
    uncommanded,
    words,
)


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


@pytest.mark.parametrize(
    "blank", "\u034f\u115f\u1160\u17b4\u180b\u2800\u3164\ufe0f\uffa0\U0001d159\U000e0100"
)
def test_letters_and_marks_that_show_nothing_leave_one_too(blank):
    assert plain(f"a{blank}b") == "a\ufffdb"


def test_marks_do_not_pile_up():
    assert plain("a" + "\u0301" * 9 + "b") == "a" + "\u0301" * 4 + "\ufffd" * 5 + "b"


@pytest.mark.parametrize(
    ("command", "inert"),
    [
        ("::stop-commands::a", "：stop-commands::a"),
        (" \u2003::error::a", "：error::a"),
        ("a ##vso[task.x]b", "a ＃vso[task.x]b"),
        ("##[group]a", "＃[group]a"),
        ("###[a]", "#＃[a]"),
        ("x##teamcity[a]", "x＃teamcity[a]"),
        ("section_start:1:a", "section_start：1:a"),
    ],
)
def test_what_a_runner_obeys_is_no_command_any_more(command, inert):
    assert plain(command) == inert


def test_every_line_is_one_to_a_runner():
    assert uncommanded("a\n  ::b::\n\x1b[2m  \x1b[31m::c::\nd ::e::\n\n::f") == (
        "a\n  ：b::\n\x1b[2m  \x1b[31m：c::\nd ::e::\n\n：f"
    )


@pytest.mark.parametrize(
    "honest",
    [
        "torch::nn::Linear",
        "a :: b",
        "C# ## d",
        "layer1.0.conv1.weight",
        "हिन्दी ภาษาไทยที่ Tiếng Việt",
        "العربية",
        "a #1 [b]",
    ],
)
def test_honest_names_stay_as_they_are(honest):
    assert plain(honest) == unicodedata.normalize("NFC", plain(honest)) == honest
    assert plain(unicodedata.normalize("NFD", honest)) == unicodedata.normalize("NFD", honest)


def test_strings_of_a_document_are_bounded_and_can_be_read_strictly():
    value = {"a" * 20_000: ["b" * 20_000, "\ud800x\udfff", 1, None, True, 0.5, "é\x1b"]}
    ((key, (long, lone, *rest)),) = bounded(value).items()
    assert (len(key), len(long)) == (10_021, 10_021)
    assert (lone, rest) == ("\ufffdx\ufffd", [1, None, True, 0.5, "é\x1b"])
    picture = "data:image/png;base64," + "A" * 100_000
    assert bounded(picture) == picture
    assert bounded(picture * 30) == "data:image/png;base64,"
    deep = value = []
    for _ in range(100):
        value.append([])
        value = value[0]
    assert str(bounded(deep)) == "[" * 40 + "'…'" + "]" * 40


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
        (words({"0": 1, "1": 0}), "0 → 1, 1 → 0"),
        (
            words({k: k + 1 for k in range(9)}),
            ", ".join(f"{k} → {k + 1}" for k in range(8)) + ", … (9 in all)",
        ),
    ],
)
def test_numbers_are_written_one_way(written, expected):
    assert written == expected
