import json

from wiper_cli.reports import render


def test_json_is_the_result_itself_in_ascii(sample):
    text = render("json", [sample])
    assert text.isascii()
    assert json.loads(text) == sample


def test_hostile_names_survive_escaped(make):
    report = make("scan_finding", hostile=True)
    text = render("json", [report])
    assert text.isascii()
    assert "\x1b" not in text
    assert json.loads(text) == report
