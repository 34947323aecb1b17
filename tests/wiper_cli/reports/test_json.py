import json

from wiper_cli.reports import render


def test_json_is_the_result_itself_in_ascii(sample):
    text = render("json", [sample])
    assert text.isascii()
    assert json.loads(text) == sample


def test_nothing_in_it_is_a_command_to_a_runner_and_all_of_it_comes_back(make):
    report = make("scan_clean")
    report["sentence"] = "a ##vso[x] ##[y] ### #### b"
    text = render("json", [report])
    assert "##" not in text
    assert json.loads(text) == report
