import re
from xml.etree import ElementTree

import pytest
from sample_reports import HOSTILE, SAMPLES, hostile

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


#: XML 1.0, section 2.2.
ODD = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_strings_keep_the_xml_whole(kind):
    for name in ("scan_explained", "purify_accepted", "refused"):
        (suite,) = suites(hostile(name, HOSTILE[kind]))
        (plain,) = suites(SAMPLES[name]())
        assert [(e.tag, sorted(e.attrib)) for e in suite.iter()] == [
            (e.tag, sorted(e.attrib)) for e in plain.iter()
        ]
        strings = [
            string for e in suite.iter() for string in (e.text or "", e.tail or "", *e.attrib.values())
        ]
        assert not [string for string in strings if ODD.search(string)]
        assert all("\n" not in value for e in suite.iter() for value in e.attrib.values())
