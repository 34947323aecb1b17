import pytest

from wiper_cli.verdict import Problem
from wiper_cli.zoo import architectures, suites
from wiper_cli.zoo.recipe import CLEAN

PLAIN = """
[defaults]
data = "cifar10"
arch = "resnet10-patch-w4"
"""


@pytest.fixture
def read(tmp_path):
    def one(text):
        (tmp_path / "mine.toml").write_text(text)
        return suites.read(str(tmp_path / "mine.toml"))

    return one


def test_lists_are_crossed_and_twins_join_first(read):
    found = read(PLAIN + '[[models]]\nattack = ["badnet", "blend"]\nseed = [1, 2]\ntarget = [0, 3]\n')
    assert (found.name, [recipe.attack for recipe in found.recipes].count(CLEAN)) == ("mine", 2)
    assert ([recipe.attack for recipe in found.recipes][:2], len(found.recipes)) == ([CLEAN, CLEAN], 2 + 8)
    assert {recipe.poisoned().target for recipe in found.recipes[2:]} == {0, 3}
    assert {recipe.poisoned().seed for recipe in found.recipes[2:]} == {1, 2}
    assert len({recipe.id for recipe in found.recipes}) == 10


def test_what_a_model_says_goes_before_the_defaults(read):
    text = PLAIN + "schedule = { epochs = 3, lr = 0.1 }\n"
    text += (
        '[[models]]\nattack = "badnet"\nschedule = { epochs = 5 }\nparameters = { size = 2 }\nrate = 0.01\n'
    )
    recipe = read(text).recipes[-1]
    assert (recipe.trained().epochs, recipe.trained().lr, recipe.trigger().size) == (5, 0.1, 2)
    assert (recipe.poisoned().rate, recipe.twin.schedule) == (0.01, recipe.schedule)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("name = [", "is not valid TOML"),
        ("[[models]]\nattack = 'badnet'", "has no data or no arch"),
        (PLAIN, r"needs \[\[models\]\]"),
        (PLAIN + "[[models]]\natack = 'badnet'", "unknown key 'atack'; the nearest is 'attack'"),
        (PLAIN + "[[models]]\nattack = 'badnett'", "no attack 'badnett'; the nearest is 'badnet'"),
        (PLAIN + "[[models]]\nattack = 'known'", "no attack 'known'"),
        (
            PLAIN + "[[models]]\nattack = 'badnet'\nparameters = { sise = 2 }",
            "'sise' is no parameter.*'size'",
        ),
        (
            PLAIN + "[[models]]\nattack = 'badnet'\nplanting = { raet = 0.1 }",
            "'raet' is no field of a planting",
        ),
        (
            PLAIN + "[[models]]\nschedule = { epoch = 1 }",
            "'epoch' is no field of a schedule; the nearest is 'epochs'",
        ),
        (
            PLAIN + "[[models]]\nattack = 'badnet'\n[[models]]\nattack = 'badnet'\nparameters = { size = 2 }",
            "two recipes called .* give one of them a label",
        ),
        ("models = 3", r"needs \[\[models\]\]"),
        ("models = [3]\n", "not laid out as tables"),
    ],
)
def test_mistakes_are_named(read, text, sentence):
    with pytest.raises(Problem, match=sentence):
        read(text)


def test_no_such_suite():
    with pytest.raises(Problem, match="no suite 'tini'; the nearest is 'tiny'"):
        suites.read("tini")


@pytest.mark.parametrize("name", suites.shipped())
def test_what_comes_along_can_be_read(name):
    found = suites.read(name)
    assert found.name == name
    for recipe in found.recipes:
        architectures.find(recipe.arch)
        if recipe.attack != CLEAN:
            assert recipe.twin in found.recipes


def test_shipped_suites_hold_what_they_promise():
    assert set(suites.shipped()) == {"tiny", "shapes", "small", "paper", "field", "wide", "detect"}
    tiny = suites.read("tiny").recipes
    assert sum(recipe.attack == CLEAN for recipe in tiny) >= 8
    import triggers

    attacks = {recipe.attack for recipe in (*tiny, *suites.read("shapes").recipes)}
    assert attacks == {*triggers.names(), CLEAN, "architectural"} - {"known"}
    detect = suites.read("detect").recipes
    clean = sum(recipe.attack == CLEAN for recipe in detect)
    assert clean >= 60
    assert len(detect) - clean >= 120
    assert {
        recipe.poisoned().rate for recipe in suites.read("field").recipes if recipe.attack == "badnet"
    } == {0.1}
