"""Options that derive from the methods' settings."""

import dataclasses
from typing import get_args, get_type_hints

import click
import pytest

from wiper_cli.commands.shared.example_files import example_folder
from wiper_cli.commands.shared.method_options import MethodCommand, method_settings
from wiper_cli.purifiers import METHODS
from wiper_cli.verdict import Problem

DIGITS = example_folder()
FIELDS = [(method, field) for method, kind in METHODS.items() for field in dataclasses.fields(kind)]


@click.command(cls=MethodCommand)
def bare(**_):
    pass


OPTIONS = bare.get_params(click.Context(bare))


def asked(method, *arguments):
    """The settings of ``method`` from arguments, as the command takes them."""
    return method_settings(bare.make_context("bare", list(arguments)), method)


def flag(field):
    return "--" + field.name.replace("_", "-")


def choices(method, field):
    return list(field.metadata["choices"] or get_args(get_type_hints(METHODS[method])[field.name]))


def another(method, field):
    """A value in range that is not the default, with its arguments."""
    hint = get_type_hints(METHODS[method])[field.name]
    if hint is bool:
        return not field.default, [f"--{'no-' if field.default else ''}{flag(field)[2:]}"]
    if choices(method, field):
        value = next(choice for choice in choices(method, field) if choice != field.default)
    else:
        value = field.default + 1 if hint is int else field.default / 2 or 0.25
    return value, [flag(field), str(value)]


def test_every_field_of_every_method_is_an_option_whose_help_shows_the_default():
    for method, field in FIELDS:
        value, arguments = another(method, field)
        chosen = asked(method, *arguments)
        assert chosen == {field.name: value}
        assert type(chosen[field.name]) is type(field.default)
        option = next(one for one in OPTIONS if one.name == "method_" + field.name)
        default = {"True": "on", "False": "off"}.get(str(field.default), field.default)
        shown = option.help[option.help.rindex("[") :].strip("[]").split("; ")
        users = sum(other.name == field.name for _, other in FIELDS)
        assert f"{method if users > 1 else 'default'}: {default}" in shown
        assert len(shown) == users


def test_every_choice_of_every_method_can_be_made():
    for method, field in FIELDS:
        for choice in choices(method, field):
            assert asked(method, flag(field), choice) == {field.name: choice}


def test_nothing_asked_is_nothing_chosen():
    assert [asked(method) for method in METHODS] == [{}] * len(METHODS)


def test_a_preset_and_single_options_over_it():
    strong = METHODS["wiper"].presets["strong"]
    assert (asked("wiper", "--preset", "strong"), asked("wiper", "--preset", "paper")) == (dict(strong), {})
    chosen = asked("wiper", "--preset", "strong", "--alpha", "0.3", "--no-flip")
    assert chosen == {**strong, "alpha": 0.3, "flip": False}
    for method, kind in METHODS.items():
        for preset in kind.presets:
            assert kind(**asked(method, "--preset", preset))


def test_what_a_method_lacks_is_refused():
    with pytest.raises(Problem, match="--alpha is no option of the method fine-tuning"):
        asked("fine-tuning", "--alpha", "1")
    with pytest.raises(Problem, match=r"unlearn has no preset 'paper' \(it has: none\)"):
        asked("unlearn", "--preset", "paper")


def test_an_option_may_come_from_the_environment(monkeypatch):
    monkeypatch.setenv("WIPER_EPOCHS", "3")
    assert (asked("wiper"), asked("wiper", "--epochs", "4")) == ({"epochs": 3}, {"epochs": 4})


@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "much"])
@pytest.mark.parametrize("name", ["--lr", "--alpha", "--max-accuracy-drop", "--timeout", "--mean"])
def test_what_is_no_number_is_wrong_usage(name, value, wiper, child, few_digits, tmp_path):
    code, _, err = wiper(
        "purify", DIGITS / "model.onnx", "--clean", few_digits, "-o", tmp_path / "out.onnx",
        "--method", "wiper", name, value, "-q",
    )  # fmt: skip
    assert code == 2
    assert name in err
    assert child.requests == []


def test_the_least_of_one_method_does_not_serve_another(wiper, child, few_digits, tmp_path):
    """``--batch 1`` is in the range of the option, since wiper takes it, and not of unlearn."""
    code, _, err = wiper(
        "purify", DIGITS / "model.onnx", "--clean", few_digits, "-o", tmp_path / "out.onnx",
        "--method", "unlearn", "--batch", "1", "-q",
    )  # fmt: skip
    assert code == 2
    assert "--batch of unlearn must be at least 2, not 1." in err
    assert child.requests == []
