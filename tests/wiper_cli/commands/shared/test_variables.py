"""A variable that no option reads is told with the nearest name; one that any command reads is not."""

import pytest

from wiper_cli.commands.shared.variables import tell_unknown


@pytest.fixture
def told(wiper, monkeypatch):
    """``told(**variables)`` → what a command says on stderr that has nothing to say itself."""

    def run(*arguments, **variables):
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        code, _, err = wiper(*(arguments or ("rules", "WIPER-B01")))
        assert code == 0
        return err

    return run


def test_a_slip_is_told_with_the_nearest_name_and_without_its_value(told):
    err = told(WIPER_CLAEN="secret", WIPER_FAILON="low")
    assert err == (
        "wiper: nothing reads WIPER_CLAEN (the nearest is WIPER_CLEAN), WIPER_FAILON (the nearest is "
        "WIPER_FAIL_ON), which the environment sets.\n"
    )


def test_a_name_that_is_near_to_none(told):
    assert told(WIPER_X9="1") == "wiper: nothing reads WIPER_X9, which the environment sets.\n"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("WIPER_CLEAN", "x"), ("WIPER_FORMAT", "text"), ("WIPER_DEBUG", "1"), ("WIPER_PLUGIN", ""),
        ("WIPER_CONFIG", "x"),
        ("WIPER_NO_CACHE", "1"), ("WIPER_PRESET", "paper"), ("WIPER_EPOCHS", "2"), ("WIPER_ARCH", "x"),
        ("OTHER_CLAEN", "1"), ("_WIPER_COMPLETE", ""),
    ],
)  # fmt: skip
def test_what_some_command_reads_is_not_told(told, name, value):
    assert told(**{name: value}) == ""


def test_nothing_is_looked_up_where_nothing_is_set(monkeypatch):
    monkeypatch.setattr("wiper_cli.commands.shared.variables.os.environ", {"PATH": "x"})
    tell_unknown(None)  # which would fail as soon as it looked at the command


def test_a_hostile_name_steers_no_terminal(told):
    assert "\x1b" not in told(**{"WIPER_\x1b[2J": "1"})
