import dataclasses
import subprocess
import sys

import pytest

from wiper_cli.purifiers import METHODS
from wiper_cli.verdict import Problem


def test_methods_are_listed_without_torch():
    code = "import sys, wiper_cli.purifiers; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("name", METHODS)
def test_settings_explain_themselves_and_defaults_are_in_range(name):
    method = METHODS[name]
    assert method.name == name
    assert method.title
    settings = method()
    assert settings.needs <= {"labels", "body", "head", "triggered"}
    for field in dataclasses.fields(settings):
        value, low, high = field.default, field.metadata["low"], field.metadata["high"]
        assert field.metadata["help"].endswith(".")
        assert low is None or value >= low
        assert high is None or value <= high


@pytest.mark.parametrize("name", METHODS)
def test_presets_fit(name):
    for preset in METHODS[name].presets.values():
        METHODS[name](**preset)


def test_the_papers_numbers():
    wiper = METHODS["wiper"](**METHODS["wiper"].presets["paper"])
    assert (wiper.alpha, wiper.beta, wiper.eta) == (0.01, 0.5, 0.9)
    assert (wiper.lr, wiper.momentum, wiper.batch, wiper.epochs) == (0.01, 0.0, 128, 10)
    assert (wiper.regulariser, wiper.last_layers) == ("ar", 1)


def test_the_numbers_of_the_papers_rivals():
    def of(name, preset="paper"):
        return METHODS[name](**METHODS[name].presets[preset])

    assert (of("fine-tuning").lr, of("fine-tuning").schedule, of("fine-tuning").weight_decay) == (
        0.1,
        "constant",
        1e-4,
    )
    assert (of("fine-pruning").share, of("fine-pruning").metric) == (0.1, "am")
    assert (of("kd").hard, of("kd").temperature, of("kd").epochs) == (0.5, 2.0, 50)
    assert (of("nad").lr, of("nad").schedule, of("nad").epochs, of("nad").momentum) == (0.1, "step", 10, 0.9)
    assert of("i-bau").radius == 10.0
    assert of("clp").deviations == 3.0
    assert {of(name, "field").lr for name in ("fine-tuning", "fine-pruning", "kd", "nad")} == {0.01}


def test_only_head_training_needs_the_head_alone():
    assert METHODS["wiper"](train="head").needs == {"labels", "head"}
    assert METHODS["wiper"]().needs == METHODS["unlearn"]().needs == {"labels", "body"}


@pytest.mark.parametrize(
    ("method", "wrong"),
    [
        ("unlearn", {"batch": 1}),
        ("wiper", {"beta": 1.5}),
        ("wiper", {"lr": float("nan")}),
        ("fine-tuning", {"epochs": 0}),
        ("prune", {"metric": "bss"}),
    ],
)
def test_values_out_of_range_are_refused(method, wrong):
    with pytest.raises(Problem, match=f"--{next(iter(wrong))} of {method} must be"):
        METHODS[method](**wrong)
