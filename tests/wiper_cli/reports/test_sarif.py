import json
import re
from pathlib import Path
from urllib.parse import urlsplit

import jsonschema
import pytest
from sample_reports import HOSTILE, hostile

from wiper_cli import rules
from wiper_cli.reports import render
from wiper_cli.reports.sarif import message, uri


@pytest.fixture(scope="module")
def official():
    schema = json.loads(Path(__file__).with_name("sarif-schema-2.1.0.json").read_text("utf-8"))
    return jsonschema.Draft4Validator(schema)


def run(*reports):
    return json.loads(render("sarif", reports))["runs"][0]


def test_samples_keep_the_official_schema(sample, official):
    assert list(official.iter_errors(json.loads(render("sarif", [sample])))) == []


def test_hostile_and_several_keep_it_too(make, sample_names, official):
    reports = [make(name, hostile=True) for name in sample_names] + [make(name) for name in sample_names]
    text = render("sarif", reports)
    assert list(official.iter_errors(json.loads(text))) == []
    assert text.isascii()
    assert not re.search(r"\\u(20[0-9a-f]{2}|00[01][0-9a-f]|d8[0-9a-f]{2})(?<!2026)", text)


def strings(value):
    if isinstance(value, dict):
        for key, item in value.items():
            yield key
            yield from strings(item)
    elif isinstance(value, list):
        for item in value:
            yield from strings(item)
    elif isinstance(value, str):
        yield value


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_strings_are_no_links_and_no_places_elsewhere(kind, official):
    reports = [hostile(name, HOSTILE[kind]) for name in ("scan_explained", "purify_accepted", "refused")]
    document = json.loads(render("sarif", reports))
    assert list(official.iter_errors(document)) == []
    (found,) = document["runs"]
    places = [one["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] for one in found["results"]]
    places += [one["location"]["uri"] for one in found["artifacts"]]
    places += [one["model"] for one in found["properties"]["verdicts"]]
    for place in places:
        parts = urlsplit(place)
        assert (parts.scheme, parts.netloc, parts.query, parts.fragment) == ("", "", "", "")
        assert not place.startswith("/")
        assert ".." not in place.split("/")
    texts = [one["message"]["text"] for one in found["results"]]
    texts += [one["message"]["text"] for one in found["invocations"][0]["toolExecutionNotifications"]]
    for text in texts:
        assert not re.search(r"\]\(|(?<!\{)\{\d+\}(?!\})", text)
    own = {rule["help"]["markdown"] for rule in found["tool"]["driver"]["rules"]}
    assert max(len(one) for one in strings(document) if one not in own) < 5000


def test_results_point_at_their_rule(make):
    found = run(make("scan_finding"), make("refused"), make("verify_known"))
    names = [entry["id"] for entry in found["tool"]["driver"]["rules"]]
    assert (names, {result["ruleId"] for result in found["results"]}) == (sorted(set(names)), set(names))
    for result in found["results"]:
        assert names[result["ruleIndex"]] == result["ruleId"]


def test_rules_carry_help_and_severity(make):
    by_id = {
        entry["id"]: entry for entry in run(make("scan_finding"), make("refused"))["tool"]["driver"]["rules"]
    }
    assert by_id["WIPER-B01"]["help"]["markdown"] == rules.rule("WIPER-B01").help()
    # B01 is usually medium; here a finding of it is high.
    assert by_id["WIPER-B01"]["properties"]["security-severity"] == "8.0"
    assert by_id["WIPER-TS-001"]["properties"]["security-severity"] == "9.5"
    assert "security-severity" not in by_id["WIPER-F02"]["properties"]


def test_places(make):
    found = run(make("scan_clean"), make("scan_finding"))
    square, margin, preprocessing = found["results"]
    physical = margin["locations"][0]["physicalLocation"]
    assert physical["region"] == {"startLine": 1, "byteOffset": 1200, "byteLength": 2560}
    assert physical["artifactLocation"] == {"uri": "models/model.onnx", "index": 0}
    assert margin["locations"][0]["logicalLocations"] == [
        {"name": "fc.weight", "fullyQualifiedName": "tensor:fc.weight", "kind": "object"}
    ]
    assert square["locations"][0]["physicalLocation"]["region"] == {"startLine": 1}
    assert (preprocessing["kind"], preprocessing["level"]) == ("informational", "none")
    assert (square["kind"], square["level"]) == ("fail", "error")
    # Two reports on one file share its artifact.
    (artifact,) = found["artifacts"]
    assert (artifact["hashes"], artifact["length"]) == ({"sha-256": "ab" * 32}, 44700000)


def prints(found):
    return [result["partialFingerprints"]["wiperFinding/v1"] for result in found["results"]]


def test_fingerprints_follow_rule_digest_and_place(make):
    before = prints(run(make("scan_finding")))
    assert len(set(before)) == 3
    moved = make("scan_finding")
    moved["model"]["path"] = "elsewhere/model.onnx"
    moved["findings"][0]["message"] = "said otherwise"
    moved["findings"][1]["place"]["offset"] = 99
    assert prints(run(moved)) == before
    other = make("scan_finding")
    other["model"]["sha256"] = "12" * 32
    assert not set(prints(run(other))) & set(before)
    twice = make("scan_finding")
    twice["findings"] = twice["findings"][:1] * 2
    assert len(set(prints(run(twice)))) == 2


@pytest.mark.parametrize(
    ("name", "successful"),
    [
        ("incomplete", False), ("scan_clean", True), ("scan_finding", True), ("refused", True),
        ("purify_rejected", True),
    ],
)  # fmt: skip
def test_no_verdict_is_no_successful_execution(make, name, successful):
    invocation = run(make(name))["invocations"][0]
    assert invocation["executionSuccessful"] is successful
    assert invocation["exitCode"] == make(name)["exit_code"]


def test_what_was_not_done_is_a_notification(make):
    notes = run(make("incomplete"))["invocations"][0]["toolExecutionNotifications"]
    assert [note["message"]["text"] for note in notes] == [
        "Not done: All detectors: at least two classes are needed; give more in --clean"
    ]


def test_taxonomies_hold_every_reference(make):
    found = run(make("scan_finding"), make("refused"))
    taxa = {entry["name"]: {taxon["id"] for taxon in entry["taxa"]} for entry in found["taxonomies"]}
    for entry in found["tool"]["driver"]["rules"]:
        for relation in entry["relationships"]:
            assert relation["target"]["id"] in taxa[relation["target"]["toolComponent"]["name"]]
    assert found["taxonomies"][1]["version"] == rules.ATLAS_VERSION
    for reference in found["tool"]["driver"]["supportedTaxonomies"]:
        assert found["taxonomies"][reference["index"]]["name"] == reference["name"]


def test_uris_are_relative(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert uri(str(tmp_path / "a b" / "m.onnx")) == "a%20b/m.onnx"
    assert (uri("/somewhere/else/m.onnx"), uri("../m.onnx")) == ("m.onnx", "m.onnx")
    assert uri("models\\m.onnx") == "models/m.onnx"
    assert uri("javascript:alert(1)") == "javascript%3Aalert%281%29"
    assert uri("") == uri("/") == "model"


def test_messages_hold_no_links_or_placeholders():
    assert message("[x](http://e) {0}\u202e") == "[x] (http://e) {{0}}\ufffd"
