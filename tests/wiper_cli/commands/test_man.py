"""The manual page: all that the help has, as roff in which nothing of it is taken for a request or an escape."""

import re
import shutil
import subprocess

import click
import pytest

from wiper_cli.commands.man import escaped, line, page
from wiper_cli.commands.shared.help import SECTIONS, Command
from wiper_cli.main import cli
from wiper_cli.verdict import ExitCode

ESCAPES = r"\\(?:[e&-]|\((?:aq|ga|ha|ti)|f[BR]|\[u[0-9A-F]{4,6}\])"
REQUESTS = r"\.(?:TH WIPER 1 .*|SH [A-Z ]+|SS \S.*|TP|PP|RS 4|RE|nf|fi)"


@pytest.fixture
def printed(wiper, monkeypatch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    code, out, err = wiper("man")
    assert (code, err) == (0, "")
    return out


def shown(text):
    """What a reader sees of one line."""
    text = re.sub(r"\\f[BR]|\\&", "", text)
    text = re.sub(r"\\\[u([0-9A-F]+)\]", lambda found: chr(int(found[1], 16)), text)
    for code, sign in {
        r"\-": "-",
        r"\(aq": "'",
        r"\(ga": "`",
        r"\(ha": "^",
        r"\(ti": "~",
        r"\e": "\\",
    }.items():
        text = text.replace(code, sign)
    return text


def commands(command, context):
    yield context
    for name, inner in command.commands.items() if isinstance(command, click.Group) else ():
        yield from commands(inner, click.Context(inner, parent=context, info_name=name))


def tree():
    root = cli()
    return [*commands(root, click.Context(root, info_name="wiper", help_option_names=["-h", "--help"]))]


def test_every_command_has_its_part_with_all_its_options_and_examples(printed):
    head, _, rest = printed.partition("\n.SH COMMANDS\n")
    rest, _, shared = rest.partition("\n.SH SHARED OPTIONS\n")
    parts = {shown(part.partition("\n")[0]): part for part in ("\n" + rest).split("\n.SS ")[1:]}
    parts["wiper"] = head
    contexts = tree()
    assert list(parts) == [one.command_path for one in contexts[1:]] + ["wiper"]
    told = 0
    for context in contexts:
        words = " ".join(shown(one) for one in parts[context.command_path].splitlines() if one != ".PP")
        assert " ".join(context.command.help.split()) in words
        mine = {shown(one) for one in parts[context.command_path].splitlines()}
        common = (
            {shown(one) for one in shared.splitlines()} if "Also the shared options" in str(mine) else set()
        )
        for option in context.command.get_params(context):
            if isinstance(option, click.Option) and (record := option.get_help_record(context)):
                assert record[0] in mine | common, (context.command_path, record[0])
                told += 1
        assert set(getattr(context.command, "examples", ())) <= mine | {
            e for e in context.command.examples if not context.parent
        }
    assert told > 250
    assert [shown(one) for one in printed.splitlines()].count("--fail-on SEVERITY") == 1


def test_shared_options_say_the_same_in_every_command():
    said = {}
    for context in tree():
        if isinstance(context.command, Command):
            for title, rows in context.command.sections(context).items():
                for name, text in rows if title in SECTIONS else ():
                    said.setdefault((title, name), set()).add(text)
    assert len(said) > 15
    assert not {name for name, texts in said.items() if len(texts) > 1}


def test_nothing_is_taken_for_a_request_or_an_escape(printed):
    assert printed.isascii()
    for number, text in enumerate(printed.splitlines(), 1):
        if text.startswith((".", "'")):
            assert re.fullmatch(REQUESTS, text), (number, text)
        if not text.startswith(".TH"):
            rest = re.sub(ESCAPES, "", text)
            assert not set(rest) & set("\\-'`^~"), (number, text)


@pytest.mark.parametrize("text", [".so /etc/passwd", "'", r"\fB\n(.x", "--a-b", "~^`'\"", "MODEL… ×", ""])
def test_what_is_escaped_is_shown_as_it_was(text):
    made = line(text)
    assert not made.startswith((".", "'"))
    assert shown(made) == text == shown(escaped(text))
    if groff := shutil.which("groff"):
        source = f".TH X 1\n.nf\n{made}\n"
        done = subprocess.run(
            [groff, "-man", "-Tutf8", "-P-c", "-P-b", "-P-u"],
            input=source,
            capture_output=True,
            text=True,
            check=True,
        )
        assert not done.stderr
        assert text in done.stdout


def test_the_exit_codes_are_the_constants(printed):
    part = printed.partition(".SH EXIT STATUS\n")[2].partition(".SH")[0]
    assert [int(code) for code in re.findall(r"^\\fB(\d)\\fR$", part, re.MULTILINE)] == [
        int(code) for code in ExitCode
    ]


def test_variables_are_named_as_the_page_says():
    for context in tree():
        for option in context.command.get_params(context):
            long = next((name for name in option.opts if name.startswith("--")), "")
            if context.info_name in {"scan", "purify", "verify", "inspect", "rebuild"} and long not in (
                "", "--help", "--show-settings",
            ):  # fmt: skip
                assert option.envvar == "WIPER_" + long[2:].replace("-", "_").upper()


def test_the_date_is_settled_by_the_usual_variable(printed, wiper):
    assert printed.startswith('.TH WIPER 1 2023-11-14 "wiper ')
    assert wiper("man")[1] == printed


@pytest.mark.skipif(not shutil.which("mandoc"), reason="no mandoc")
def test_mandoc_finds_nothing_to_say(printed):
    done = subprocess.run(
        ["mandoc", "-T", "lint"], input=printed, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_help_that_begins_like_a_request_is_text():
    @click.group(help=".nothing\n\n'here", context_settings={"help_option_names": ["--help"]})
    def group():
        pass

    made = [*page(group)]
    assert r"\&.nothing" in made
    assert r"\&\(aqhere" in made
