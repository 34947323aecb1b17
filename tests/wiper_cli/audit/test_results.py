"""Results as the plain data of a report."""

import json
import math
from pathlib import Path

import jsonschema
import numpy as np
import pytest
import torch

from formats import (
    Address,
    Architecture,
    Edit,
    Head,
    InputSpec,
    Manifest,
    Model,
    NewTensor,
    Source,
    unpack_edit,
)
from wiper_cli.audit import pipeline as audit
from wiper_cli.audit import results as telling
from wiper_cli.commands.shared import document as documents
from wiper_cli.commands.shared.run import merge
from wiper_cli.detectors.evidence import Evidence
from wiper_cli.reports.schema import problem, schema


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
        source=Source("m", data),
        manifest=Manifest("safetensors", addresses),
        network=None,
        tensors={},
        head=None,
        classes=3,
        architecture=Architecture("made", "here"),
        input=InputSpec(1, 8, 8),
    )


def edit_of(model, **values):
    found = {
        name: NewTensor(model.manifest.tensors[name].dtype, tuple(value.shape), value.tobytes())
        for name, value in values.items()
    }
    return Edit(found)


# --- what changed ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.int8])
def test_changed_elements_alone_are_counted(dtype):
    before = np.arange(24).reshape(2, 3, 4).astype(dtype)
    after = before.copy()
    after[0, 1, 2] += 2
    after[1, 2, 3] -= 3
    model = model_of(conv=before, other=before)
    rows = telling.changed(model, edit_of(model, conv=after, other=before))
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
    (row,) = telling.changed(model, edit_of(model, fc=after))
    assert row == {"address": "fc", "elements": 3, "max_change": 3.0, "units": [1, 4]}
    (row,) = telling.changed(model, edit_of(model, fc=before + 1))
    assert row["units"] is None
    (row,) = telling.changed(model, edit_of(model, fc=before))
    assert row["units"] == []


# --- odd values --------------------------------------------------------------------------------------------------


def test_finite():
    assert telling.finite(None) is None
    assert telling.finite(0.0) == 0.0
    assert [telling.finite(value) for value in (math.nan, math.inf, -math.inf)] == [None] * 3


def test_plain_is_json_and_loses_nothing_that_json_can_say():
    odd = {
        1: torch.tensor([[1.5, math.nan], [math.inf, 2.0]]),
        "tuple": (1, 2.5, None, True, "text"),
        "nested": {"path": Path("a/b"), "list": [{"deep": -math.inf}]},
        "whole": torch.tensor([1, 2]),
        "scalar": torch.tensor(3.5),
        "numpy": np.float64(2.5),
        "empty": {},
    }
    found = telling.plain(odd)
    assert json.loads(json.dumps(found, allow_nan=False)) == {
        "1": [[1.5, None], [None, 2.0]],
        "tuple": [1, 2.5, None, True, "text"],
        "nested": {"path": "a/b", "list": [{"deep": None}]},
        "whole": [1, 2],
        "scalar": 3.5,
        "numpy": 2.5,
        "empty": {},
    }
    assert found["tuple"][3] is True


# --- the expectation ---------------------------------------------------------------------------------------------


def test_the_expectation_holds_normalised_inputs_and_their_logits(digits_subject):
    expected = {
        name: telling.tensor(new)
        for name, new in unpack_edit(
            telling.expectation(digits_subject, digits_subject.classifier)
        ).tensors.items()
    }
    assert expected["inputs"].shape == (telling.CHECKED, 1, 32, 32)
    assert expected["outputs"].shape == (telling.CHECKED, 10)
    with torch.no_grad():
        outputs = digits_subject.model.network(expected["inputs"])
    torch.testing.assert_close(outputs, expected["outputs"], rtol=1e-5, atol=1e-5)


# --- documents ---------------------------------------------------------------------------------------------------


def valid(command, result):
    """The document of a run, as the parent puts it together, after its way through JSON."""
    document = documents.begin(command, [command], Path("m"), 0)
    merge(document, json.loads(json.dumps(result, allow_nan=False)))
    if command != "inspect":
        documents.conclude(document, "high", exit_zero=False)
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
    shown = telling.shown_detector(digits_subject, piece)
    assert shown["per_class"][:3] == [None, None, 0.1]
    assert shown["facts"] == {"where": [1, 2], "map": [1.0, None]}
    assert shown["seconds"] == 1.235
    if fired:
        assert shown["trigger"]["target"] == 0
        assert set(shown["trigger"]["pictures"]) == {"clean", "triggered", "difference"}
        assert len(set(shown["trigger"]["pictures"].values())) == 3
    else:
        assert shown["statistic"] is None
        assert shown["trigger"] is None
    detection = telling.shown_detection(digits_subject, [piece], (0,))
    result = {**telling.examined(digits_subject), "detection": detection, "verdict": "suspicious"}
    assert valid("scan", result)["detection"]["detectors"][0]["fired"] is fired


def test_documents_of_every_job_are_valid(job, heard, quantised_file):
    asked = {"poisoned": None, "known": None, "triggers": "badnet", "target": None, "max_asr": 0.2}
    asked |= {"trigger_files": [], "fit": False}
    for file in (job()["model"], str(quantised_file)):
        assert valid("inspect", audit.inspect(job(model=file), b"", heard)[0])
        assert valid("scan", audit.scan(job(model=file), b"", heard)[0])["exit_code"] == 3
        settings = {"train": "head", "epochs": 1}
        done = job(model=file, method="wiper", method_settings=settings, accept_unverified=True)
        assert valid("purify", audit.purify(done, b"", heard)[0])["purification"]["history"]
        measured = valid("verify", audit.measure(job(model=file, **asked), b"", heard)[0])
        assert measured["verification"]["before"]["triggers"][0]["family"] == "badnet"


def test_a_model_without_a_head_is_described(digits_subject):
    import dataclasses

    shown = telling.described(dataclasses.replace(digits_subject.model, head=None, class_names=("a",) * 10))
    assert shown["head"] is None
    assert shown["classes"] == ["a"] * 10
    assert telling.described(digits_subject.model)["classes"] == [str(k) for k in range(10)]
