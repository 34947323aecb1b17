from xml.etree import ElementTree

from wiper_cli.reports import render


def suites(*reports):
    return ElementTree.fromstring(render("junit", reports).split("\n", 1)[1]).findall("testsuite")


def test_findings_fail_and_what_could_not_run_is_skipped(make):
    (suite,) = suites(make("scan_finding"))
    counted = {"tests": "7", "failures": "2", "errors": "0", "skipped": "1"}
    assert {key: suite.get(key) for key in counted} == counted
    assert "threshold: 0.5" in suite.find("testcase/failure").text


def test_no_verdict_is_an_error(make):
    (suite,) = suites(make("incomplete"))
    assert suite.get("errors") == "1"
    assert "one class only" in suite.find("testcase/error").get("message")


def test_hostile_names_keep_the_xml_whole(make, sample_names):
    assert len(suites(*[make(name, hostile=True) for name in sample_names])) == len(sample_names)
