import pytest

from wiper_cli.audit.known_rates import KnownRate, known_rate, measured
from wiper_cli.detectors import DETECTORS
from wiper_cli.rates import Rate

KNOWN = KnownRate("thorough", ("a", "b"), ((3, 32, 32),), (10, 43), "two kinds", Rate(1, 40))


@pytest.mark.parametrize(
    ("effort", "detectors", "shape", "classes", "covered"),
    [
        ("thorough", ("b", "a"), (3, 32, 32), 10, True),
        ("thorough", ("a", "b"), (3, 32, 32), 43, True),
        ("normal", ("a", "b"), (3, 32, 32), 10, False),
        ("thorough", ("a",), (3, 32, 32), 10, False),
        ("thorough", ("a", "b"), (1, 32, 32), 10, False),
        ("thorough", ("a", "b"), (3, 224, 224), 10, False),
        ("thorough", ("a", "b"), (3, 32, 32), 9, False),
        ("thorough", ("a", "b"), (3, 32, 32), 100, False),
    ],
)
def test_a_rate_holds_for_what_it_was_measured_on(effort, detectors, shape, classes, covered):
    assert KNOWN.covers(effort, detectors, shape, classes) is covered


@pytest.mark.parametrize(
    ("images", "covered"), [((512, 200), True), ((511, 900), False), ((900, 199), False)]
)
def test_with_fewer_images_than_searches_draw_no_rate_is_known(images, covered):
    assert KNOWN.covers("thorough", ("a", "b"), (3, 32, 32), 10, images) is covered


@pytest.mark.parametrize(
    ("hits", "words"), [(0, "none were accused"), (1, "1 was accused"), (2, "2 were accused")]
)
def test_the_sentence_says_of_how_many_and_how_sure(hits, words):
    sentence = KnownRate("thorough", (), (), (1, 2), "two kinds", Rate(hits, 40)).sentence
    assert f"of 40 honest networks of that size (two kinds), {words} (95 % interval" in sentence
    assert sentence.endswith("Of others no rate is known.")


@pytest.mark.parametrize(
    ("hits", "words"), [(0, "after none it still worked"), (2, "after 2 it still worked")]
)
def test_the_sentence_on_removal_says_of_how_many_and_how_sure(hits, words):
    rate = KnownRate("thorough", (), (), (1, 2), "two kinds", Rate(1, 40), Rate(hits, 20))
    assert rate.removal.startswith("Of 20 accepted purifications")
    assert f"{words} (95 % interval" in rate.removal
    assert KNOWN.removal == ""


def test_what_ships_is_for_all_detectors_and_efforts_that_were_measured():
    thorough, quick = measured()
    shape = (3, 32, 32)
    assert known_rate("thorough", DETECTORS, shape, 10) is thorough
    assert known_rate("quick", DETECTORS, shape, 10) is quick
    assert known_rate("normal", DETECTORS, shape, 10) is None
    assert known_rate("thorough", ["max-margin"], shape, 10) is None
    assert known_rate("thorough", DETECTORS, (3, 224, 224), 10) is None
    assert thorough.p_value("max-margin", 1e9) == pytest.approx(1 / (1 + thorough.accused.n))
    assert set(thorough.statistics) == set(thorough.fired) == set(DETECTORS)


def test_the_rank_among_honest_networks():
    rate = KnownRate("quick", (), (), (1, 2), "", Rate(0, 3), statistics={"a": (0.1, 0.3, 0.2)})
    values = [rate.p_value("a", value) for value in (0.4, 0.3, 0.25, 0.0)]
    assert values == [0.25, 0.5, 0.5, 1.0]
    assert rate.p_value("a", None) is None
    assert rate.p_value("b", 1.0) is None
