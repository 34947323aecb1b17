"""What stderr shows while waiting: nothing on stdout, a line a stage, bars on a terminal."""

import io
import sys

import pytest
from inert import active

from wiper_cli.commands.shared.terminal import Display

HOSTILE = "evil\x1b[31m\u202e\nname :warning: ##[error]x " + " ".join(
    "::error::" + "y" * n for n in range(40)
)


def tell(display):
    with display:
        display.progress("open", 0, 0)
        for done in range(3):
            display.progress("score", done, 2)
        display.log("a remark")


def test_without_a_terminal_one_line_a_stage(capsys):
    tell(Display())
    out, err = capsys.readouterr()
    assert (out, [line.split(" (")[0] for line in err.splitlines()]) == ("", ["open", "score"])
    assert all(line.endswith(" s)") for line in err.splitlines())


def test_quiet_shows_nothing_but_what_is_said(capsys):
    tell(Display(quiet=True))
    assert capsys.readouterr() == ("", "")
    with Display(quiet=True) as display:
        display.progress("open", 0, 0)
        display.say("the verdict")
    assert capsys.readouterr() == ("", "the verdict\n")


def test_verbose_shows_remarks(capsys):
    tell(Display(verbose=True))
    assert "a remark\n" in capsys.readouterr().err


def test_stages_carry_the_name_of_their_file(capsys):
    with Display() as display:
        display.subject("model.onnx")
        display.progress("open", 0, 0)
    assert capsys.readouterr().err.startswith("model.onnx: open (")


def test_a_stage_is_finished_when_something_fails(capsys):
    def fail():
        with Display() as display:
            display.progress("open", 0, 0)
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert capsys.readouterr().err.startswith("open (")


def test_hostile_names_are_made_plain(capsys):
    with Display(verbose=True) as display:
        display.subject(HOSTILE)
        display.progress(HOSTILE, 0, 0)
        display.log(HOSTILE)
        display.say(HOSTILE)
    out, err = capsys.readouterr()
    assert (out, len(err.splitlines())) == ("", 3)
    assert active(err) == []


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def terminal(monkeypatch):
    """``terminal()``: from here on stderr is a terminal that remembers."""

    def install():
        stream = Terminal()
        monkeypatch.setattr(sys, "stderr", stream)
        monkeypatch.setenv("TERM", "xterm")
        monkeypatch.setenv("COLUMNS", "120")
        return stream

    return install


def test_bars_on_a_terminal(terminal, capsys):
    terminal = terminal()
    tell(Display(verbose=True))
    shown = terminal.getvalue()
    for part in ("score", "%", "a remark"):
        assert part in shown
    assert " s)" not in shown
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("name", ["[/bold] model.onnx", "[red]model.onnx", HOSTILE])
def test_a_name_is_text_and_not_markup(name, terminal):
    terminal = terminal()
    with Display() as display:
        display.subject(name)
        display.progress("open", 1, 2)
        display._bars.refresh()
        display.say(name)
    shown = terminal.getvalue()
    # Once in the bar and once in the line that was said.
    assert shown.count(name.split("\x1b")[0].strip()) >= 2
    assert "\u202e" not in shown
    assert "\x1b[31m\ufffd" not in shown
    assert "##[" not in shown
    assert "\N{WARNING SIGN}" not in shown
    assert not [line for line in shown.splitlines() if line.lstrip().startswith("::")]


def test_quiet_shows_no_bars_on_a_terminal(terminal):
    terminal = terminal()
    tell(Display(quiet=True))
    assert terminal.getvalue() == ""
