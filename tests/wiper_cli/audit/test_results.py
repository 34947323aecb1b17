"""Results as the plain data of a report."""

import dataclasses
import json
import math
from pathlib import Path

import jsonschema
import numpy as np
import pytest
import torch

from formats import Address, Architecture, Edit, Head, InputSpec, Manifest, Model, NewTensor, Source
from formats.tensors import from_bytes
from wiper_cli.audit import results
from wiper_cli.audit.pipeline import run
from wiper_cli.audit.requests import InspectRequest, PurifyRequest, ScanRequest, VerifyRequest
from wiper_cli.audit.subject import Notes
from wiper_cli.commands.shared import document as documents
from wiper_cli.detectors.evidence import Evidence
from wiper_cli.purifiers import METHODS
from wiper_cli.reports.schema import problem, schema
from wiper_cli.worker.codec import pack, unpack


def model_of(**tensors):
    """A model whose file is ``tensors``: name → array; ``fc`` is its head where there is one."""
    kinds = {"float32": "F32", "float16": "F16", "int8": "I8"}
    data, addresses = b"", {}
    for name, value in tensors.items():
        addresses[name] = Address(
            name, "", len(data), value.nbytes, kinds[value.dtype.name], tuple(value.shape)
        )
        data += value.tobytes()
    return Model(
        source=Source("m", data), manifest=Manifest("safetensors", addresses), network=None, tensors={},
        head=None, classes=3, architecture=Architecture("made", "here"), input=InputSpec(1, 8, 8),
    )  # fmt: skip


def edit_of(model, **values):
    found = {
        name: NewTensor(model.manifest.tensors[name].dtype, tuple(value.shape), value.tobytes())
        for name, value in values.items()
    }
    return Edit(found)


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.int8])
def test_changed_elements_alone_are_counted(dtype):
    before = np.arange(24).reshape(2, 3, 4).astype(dtype)
    after = before.copy()
    after[0, 1, 2] += 2
    after[1, 2, 3] -= 3
    model = model_of(conv=before, other=before)
    rows = results.changed(model, edit_of(model, conv=after, other=before))
    assert rows == [
        {"address": "conv", "elements": 2, "max_change": 3.0},
        {"address": "other", "elements": 0, "max_change": 0.0},
    ]


@pytest.mark.parametrize("layout", ["out_in", "in_out", "conv"])
def test_the_head_s_changed_units_are_named(layout):
    stored = {"out_in": (3, 5), "in_out": (5, 3), "conv": (3, 5, 1, 1)}[layout]
    before = np.zeros(stored, np.float32)
    model = model_of(fc=before)
    model.head = Head("fc", None, units=5, classes=3, layout=layout)
    after = before.copy()
    for number, unit in ((0, 1), (2, 4), (1, 4)):
        after[(unit, number) if layout == "in_out" else (number, unit)] = 1 + number
    (row,) = results.changed(model, edit_of(model, fc=after))
    assert row == {"address": "fc", "elements": 3, "max_change": 3.0, "units": [1, 4]}
    (row,) = results.changed(model, edit_of(model, fc=before + 1))
    assert row["units"] is None
    (row,) = results.changed(model, edit_of(model, fc=before))
    assert row["units"] == []


def test_what_a_report_can_carry_loses_nothing_that_json_can_say():
    odd = {
        1: torch.tensor([[1.5, math.nan], [math.inf, 2.0]]), "tuple": (1, 2.5, None, True, "text"),
        "nested": {"path": Path("a/b"), "list": [{"deep": -math.inf}]}, "whole": torch.tensor([1, 2]),
        "scalar": torch.tensor(3.5), "numpy": np.float64(2.5), "empty": {},
    }  # fmt: skip
    found = results.jsonable(odd)
    assert json.loads(json.dumps(found, allow_nan=False)) == {
        "1": [[1.5, None], [None, 2.0]], "tuple": [1, 2.5, None, True, "text"],
        "nested": {"path": "a/b", "list": [{"deep": None}]}, "whole": [1, 2], "scalar": 3.5, "numpy": 2.5,
        "empty": {},
    }  # fmt: skip
    assert found["tuple"][3] is True


def test_the_expectation_holds_normalised_inputs_and_their_logits(digits_subject):
    found = results.expectation(digits_subject.classifier, digits_subject.clean.report.images)
    expected = {name: from_bytes(new.data, new.dtype, new.shape) for name, new in found.items()}
    assert expected["inputs"].shape == (results.CHECKED, 1, 32, 32)
    assert expected["outputs"].shape == (results.CHECKED, 10)
    with torch.no_grad():
        outputs = digits_subject.model.network(expected["inputs"])
    torch.testing.assert_close(outputs, expected["outputs"], rtol=1e-5, atol=1e-5)


def valid(command, sections):
    """A report of ``command`` with these sections, after its way through JSON."""
    document = documents.begin(command, [command], Path("m"), 0) | sections
    document["model"] = {"path": "m", **sections["model"]}
    document = json.loads(json.dumps(document, allow_nan=False))
    jsonschema.validate(document, schema())
    assert problem(document) == ""
    return document


class Odd:
    """A detector whose evidence has every odd value, and which recovered a square that works."""

    title = "Odd"

    def __init__(self, fired):
        self.fired = fired

    def run(self, classifier, clean, progress, seed):
        from wiper_cli.detectors.square_probe import SquareProbe

        recovered = (
            SquareProbe(sides=(3,), fills=("checker",)).run(classifier, clean, progress, seed).recovered
        )
        return Evidence(
            "odd", True, "", 0.9 if self.fired else math.nan, 0.5, "made up", fired=self.fired, target=0,
            per_class=[math.inf, math.nan, *[0.1] * 8], suspects=(0,), recovered=recovered,
            facts={"where": (1, 2), "map": torch.tensor([1.0, math.nan])}, seconds=1.23456,
        )  # fmt: skip


@pytest.mark.parametrize("fired", [True, False])
def test_every_value_of_a_detector_has_a_word(fired, digits_subject, heard):
    classifier, clean = digits_subject.classifier, digits_subject.clean
    piece = Odd(fired).run(classifier, clean, heard, 0)
    shown = results.shown_detector(digits_subject, piece)
    assert shown["per_class"][:3] == [None, None, 0.1]
    assert (shown["facts"], shown["seconds"]) == ({"where": [1, 2], "map": [1.0, None]}, 1.235)
    if fired:
        assert shown["trigger"]["target"] == 0
        assert set(shown["trigger"]["pictures"]) == {"clean", "triggered", "difference"}
        assert len(set(shown["trigger"]["pictures"].values())) == 3
    else:
        assert shown["statistic"] is None
        assert shown["trigger"] is None
    detection = results.shown_detection(digits_subject, [piece], (0,))
    sections = {**results.examined(digits_subject, Notes()), "detection": detection}
    assert valid("scan", sections)["detection"]["detectors"][0]["fired"] is fired


@pytest.mark.parametrize("quantised", [False, True])
def test_the_answers_to_all_requests_make_valid_reports(quantised, job, heard, quantised_file):
    def answered(command, request):
        document = documents.begin(command, [command], Path("m"), 0)
        documents.merge(document, unpack(request.answer, *through_json(run(request, heard))))
        return valid(command, document)

    def through_json(answer):
        fields, containers = pack(answer)
        return json.loads(json.dumps(fields, allow_nan=False)), containers

    file = {"model": quantised_file} if quantised else {}
    assert answered("inspect", job(InspectRequest, **file))["model"]["classes"]
    assert answered("scan", job(ScanRequest, **file))["verdict"] == "incomplete"
    method = METHODS["wiper"](train="head", epochs=1)
    done = answered("purify", job(PurifyRequest, **file, method=method, accept_unverified=True))
    assert done["purification"]["history"]
    measured = answered("verify", job(VerifyRequest, **file, triggers=("badnet",)))
    assert measured["verification"]["before"]["triggers"][0]["family"] == "badnet"


def test_a_model_without_a_head_is_described(digits_subject):
    shown = results.described(dataclasses.replace(digits_subject.model, head=None, class_names=("a",) * 10))
    assert shown["head"] is None
    assert shown["classes"] == ["a"] * 10
    assert results.described(digits_subject.model)["classes"] == [str(k) for k in range(10)]
