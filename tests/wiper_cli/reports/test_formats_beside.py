"""CycloneDX, in-toto and the model card, each held against what its makers publish."""

import base64
import json
import re

import pytest

from wiper_cli.reports import render


def bom(*reports):
    return json.loads(render("cyclonedx", reports))


def official():
    pytest.importorskip("cyclonedx")
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    return JsonStrictValidator(SchemaVersion.V1_6)


def test_every_bill_keeps_the_official_schema(sample, make, sample_names):
    validator = official()
    every = [make(name) for name in sample_names] + [make(name, hostile=True) for name in sample_names]
    for reports in ([sample], every, []):
        assert validator.validate_str(render("cyclonedx", reports)) is None
    wrong = render("cyclonedx", [sample]).replace('"image-classification"', "7")
    assert validator.validate_str(wrong) is not None


def test_a_bill_names_model_verdict_and_findings(make):
    report = make("scan_finding")
    found = bom(report)
    (model,) = found["components"]
    assert model["hashes"] == [{"alg": "SHA-256", "content": report["model"]["sha256"]}]
    facts = {one["name"]: one["value"] for one in model["properties"]}
    assert facts["wiper:verdict"] == report["verdict"]
    assert sorted(one["id"] for one in found["vulnerabilities"]) == sorted(
        one["rule"] for one in report["findings"]
    )
    assert all(one["affects"] == [{"ref": model["bom-ref"]}] for one in found["vulnerabilities"])
    assert model["modelCard"]["quantitativeAnalysis"]["performanceMetrics"]


def test_a_bill_says_what_a_purified_file_was_made_of(make):
    report = make("purify_accepted")
    original, purified = bom(report)["components"]
    assert purified["hashes"][0]["content"] == report["purification"]["output"]["sha256"]
    assert purified["pedigree"]["ancestors"][0]["hashes"] == original["hashes"]


def test_the_same_reports_have_the_same_serial_number_and_others_another(make):
    one, other = make("scan_finding"), make("scan_clean")
    assert bom(one)["serialNumber"] == bom(one)["serialNumber"] != bom(other)["serialNumber"]


def statement(report):
    return json.loads(render("in-toto", [report]))


def test_every_statement_is_one_to_its_makers(sample, make, sample_names):
    pytest.importorskip("in_toto_attestation")
    from google.protobuf import json_format
    from in_toto_attestation.predicates.test_result.v0.test_result_pb2 import TestResult
    from in_toto_attestation.v1 import statement_pb2
    from in_toto_attestation.v1.statement import Statement

    every = [make(name) for name in sample_names] + [make(name, hostile=True) for name in sample_names]
    lines = render("in-toto", [sample, *every]).splitlines()
    assert len(lines) == len(every) + 1
    for line in lines:
        given = json.loads(line)
        if not given["subject"][0]["digest"]:
            continue
        read = json_format.ParseDict(given, statement_pb2.Statement())
        made = Statement([], "", {})
        made.pb = read
        made.validate()
        json_format.ParseDict(given["predicate"], TestResult(), ignore_unknown_fields=True)


def test_a_statement_passes_only_what_was_searched_without_a_finding(make):
    assert statement(make("scan_clean"))["predicate"]["result"] == "PASSED"
    found = make("scan_finding")
    assert statement(found)["predicate"]["result"] == "FAILED"
    assert statement({**found, "exit_code": 0})["predicate"]["result"] == "WARNED"  # --exit-zero
    assert statement({**make("scan_clean"), "command": "inspect"})["predicate"]["result"] == "WARNED"
    undecided = {**make("scan_clean"), "verdict": "incomplete", "exit_code": 3}
    assert statement(undecided)["predicate"]["result"] == "FAILED"


def test_a_statement_is_of_the_written_file_where_one_was_written(make):
    report = make("purify_accepted")
    found = statement(report)
    assert found["subject"][0]["digest"] == {"sha256": report["purification"]["output"]["sha256"]}
    assert found["predicate"]["wiper"]["model"]["sha256"] == report["model"]["sha256"]
    settings = json.loads(base64.b64decode(found["predicate"]["configuration"][0]["content"]))
    assert settings["command"] == "purify"
    assert statement(make("scan_finding"))["subject"][0]["digest"] == {
        "sha256": make("scan_finding")["model"]["sha256"]
    }


def test_a_statement_on_bytes_that_nobody_read_is_of_nothing(make):
    report = make("scan_clean")
    report["model"] = {"path": "m.onnx", "opened": "not opened"}
    assert statement(report)["subject"] == [{"name": "m.onnx", "digest": {}}]


def card(*reports):
    text = render("model-card", reports)
    head, rest = re.fullmatch(r"---\n(.*?)\n---\n(.*)", text, re.DOTALL).groups()
    return head, rest


def test_the_hub_reads_the_card(make, sample_names, sample):
    yaml, hub = pytest.importorskip("yaml"), pytest.importorskip("huggingface_hub.repocard_data")
    every = [make(name) for name in sample_names] + [make(name, hostile=True) for name in sample_names]
    head, _ = card(sample, *every)
    index = yaml.safe_load(head)["model-index"]
    assert index
    for entry in index:
        name, results = hub.model_index_to_eval_results([entry])
        assert name == entry["name"]
        assert len(results) == len(entry["results"][0]["metrics"])
        assert {one.task_type for one in results} == {"image-classification"}
        assert all(0 <= one.metric_value <= 1 for one in results)


def test_the_card_names_the_accuracy_the_verdict_and_the_bytes(make):
    yaml = pytest.importorskip("yaml")
    report = make("purify_accepted")
    head, rest = card(report)
    (entry,) = yaml.safe_load(head)["model-index"]
    metrics = {(one["type"], one["name"]): one["value"] for one in entry["results"][0]["metrics"]}
    before = report["verification"]["before"]["acc"]["value"]
    assert metrics["accuracy", "Clean accuracy, original"] == pytest.approx(before, abs=1e-4)
    assert report["model"]["sha256"] in rest
    assert "Purified" in rest


def test_a_card_without_numbers_has_an_empty_index(make):
    report = make("scan_clean")
    report["clean"] = report["verification"] = report["detection"] = None
    assert card(report)[0] == "model-index: []"
