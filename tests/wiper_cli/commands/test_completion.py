"""What a shell asks wiper when Tab is pressed."""

import os
import subprocess
import sys

import pytest

from wiper_cli.detectors import DETECTORS
from wiper_cli.main import COMMANDS
from wiper_cli.purifiers import METHODS
from wiper_cli.reports import FORMATS
from wiper_cli.rules import RULES


def tab(*words):
    """The names that come behind the last, begun word."""
    asked = {
        "_WIPER_COMPLETE": "bash_complete",
        "COMP_WORDS": " ".join(["wiper", *words]),
        "COMP_CWORD": str(len(words)),
    }
    done = subprocess.run(
        [sys.executable, "-c", "import sys; sys.argv[0] = 'wiper'; from wiper_cli.main import main; main()"],
        env={**os.environ, **asked}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stderr == ""
    return [line.partition(",")[2] for line in done.stdout.splitlines()]


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (["sc"], ["scan"]),
        (["scan", "m", "-f", "s"], [name for name in FORMATS if name.startswith("s")]),
        (["scan", "m", "--detectors", "max-margin,s"], [f"max-margin,{n}" for n in DETECTORS if n.startswith("s")]),
        (["purify", "m", "--method", "f"], [name for name in METHODS if name.startswith("f")]),
        (["rules", "WIPER-G"], [name for name in RULES if name.startswith("WIPER-G")]),
        (["verify", "m", "--triggers", "badn"], ["badnet"]),
        (["scan", "m", "--arch", "torchvision/resnet18"], ["torchvision/resnet18"]),
        (["scan", "m", "--fail"], ["--fail-on"]),
        (["completion", "z"], ["zsh"]),
        (["purify", "m", "--config"], ["--config"]),
    ],
)  # fmt: skip
def test_names(words, names):
    assert names
    assert tab(*words) == names


def test_all_commands():
    assert tab("") == [*COMMANDS]


@pytest.mark.parametrize(
    ("shell", "said"), [("bash", "complete -o nosort"), ("zsh", "#compdef wiper"), ("fish", "complete ")]
)
def test_what_a_shell_reads(wiper, shell, said):
    code, out, _ = wiper("completion", shell)
    assert code == 0
    assert said in out
    assert f"_WIPER_COMPLETE={shell}_complete" in out


def test_a_shell_that_is_not_served(wiper):
    assert wiper("completion", "tcsh")[0] == 2
