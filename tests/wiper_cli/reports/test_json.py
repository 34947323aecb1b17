import json

from wiper_cli.reports import render


def test_json_is_the_result_itself_in_ascii(sample):
    text = render("json", [sample])
    assert text.isascii()
    assert json.loads(text) == sample
