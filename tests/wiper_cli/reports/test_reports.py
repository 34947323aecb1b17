from pathlib import Path

import pytest

from wiper_cli.commands.shared.run import deliver
from wiper_cli.reports import Output, as_document, outputs, read, render, style_of
from wiper_cli.reports.plain import Style


def test_outputs_as_asked():
    assert outputs([]) == (Output("text"),)
    assert outputs(["json", "html=a=b.html"]) == (Output("json"), Output("html", Path("a=b.html")))


def test_one_report_is_itself_and_several_are_a_list(make):
    one, two = make("scan_clean"), make("scan_finding")
    assert as_document([one]) is one
    document = as_document([one, two, make("incomplete")])
    assert (document["schema"], document["exit_code"], len(document["reports"])) == ("wiper-reports/1", 1, 3)
    assert as_document([])["exit_code"] == 0


def test_json_reads_back(make):
    reports = [make("scan_finding"), make("purify_accepted")]
    assert (read(render("json", reports)), read(render("json", reports[:1]))) == (reports, reports[:1])


class Stream:
    def __init__(self, terminal):
        self.isatty = lambda: terminal


@pytest.mark.parametrize(
    ("terminal", "environ", "colour"),
    [
        (True, {}, True),
        (False, {}, False),
        (True, {"NO_COLOR": "1"}, False),
        (True, {"NO_COLOR": ""}, True),
        (False, {"FORCE_COLOR": "1"}, True),
        (True, {"FORCE_COLOR": "1", "NO_COLOR": "1"}, False),
        (True, {"TERM": "dumb"}, False),
    ],
)
def test_colour_is_asked_for(terminal, environ, colour):
    assert style_of(Stream(terminal), environ).colour is colour


def test_width_without_a_terminal_is_fixed():
    assert style_of(Stream(False), {"COLUMNS": "50"}) == Style(comment=True)


def test_what_goes_to_no_terminal_is_a_comment_in_every_line(tmp_path, capsys, make):
    assert style_of(Stream(True), {}).comment is False
    deliver(["text", f"text={tmp_path / 'report'}"], [make("scan_finding")])
    for text in (capsys.readouterr().out, (tmp_path / "report").read_text()):
        assert {line[:2] for line in text.splitlines()} == {"#", "# "}
        assert max(map(len, text.splitlines())) <= Style.width
