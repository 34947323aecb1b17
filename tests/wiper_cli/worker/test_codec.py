"""Dataclasses through JSON and back: nothing is lost, and nothing but what is declared comes in."""

import copy
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest

from formats import Edit, NewTensor
from wiper_cli.audit.answers import PurifyAnswer, ScanAnswer
from wiper_cli.audit.requests import (
    CheckRequest,
    InspectRequest,
    KnownTrigger,
    PurifyRequest,
    ScanRequest,
    VerifyRequest,
)
from wiper_cli.purifiers import METHODS
from wiper_cli.verdict import Finding, Problem, Severity, Verdict
from wiper_cli.worker.codec import DEPTH, Malformed, OneOf, Tensors, pack, unpack

MODEL, TENSOR = {"model": Path("m.onnx")}, NewTensor("F32", (1, 2), b"12345678")
EXAMINED = {
    "model": {"opened": "full"}, "sentence": "S.", "timing": {"open": 0.5}, "not_done": ({"what": "a", "why": "b"},),
    "environment": {"threads": 1}, "clean": {}, "preprocessing": {}, "salience": None, "verdict": Verdict.SUSPICIOUS,
    "findings": (Finding("WIPER-B01", Severity.HIGH, "M.", {"target": 1}, {"class": 1}),),
    "detection": {"suspects": [1]},
}  # fmt: skip
MESSAGES = [
    InspectRequest(**MODEL, arch="resnet18", logits="age"),
    ScanRequest(**MODEL, clean=Path("c"), mean=(0.5, 1), input_size=(32, 24), resize="crop", explain=Path("t")),
    PurifyRequest(**MODEL, clean=Path("c"), method=METHODS["wiper"](lr=0.1, train="head"), targets=(1, 2), live=True),
    VerifyRequest(**MODEL, clean=Path("c"), triggers=(), trigger_files=(Path("a"), Path("b"))),
    VerifyRequest(**MODEL, clean=Path("c"), known=KnownTrigger(image=Path("p"), position=(3, 4)), target=0),
    CheckRequest(**MODEL, dtypes=("F32",), expected={"inputs": TENSOR, "outputs": TENSOR}),
    ScanAnswer(**EXAMINED, explanation=None),
    PurifyAnswer(
        **EXAMINED, verification={}, purification={"accepted": True}, edit=Edit({"/fc/w": TENSOR}), expected={},
        architecture="resnet18", logits="age",
    ),
]  # fmt: skip


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_nothing_is_lost(message):
    data, containers = pack(message)
    again = unpack(type(message), json.loads(json.dumps(data, allow_nan=False)), containers)
    assert again == message
    assert "12345678" not in json.dumps(data)


def test_containers_are_named_by_their_places():
    assert [*pack(MESSAGES[-1])[1]] == ["edit.tensors", "expected"]


@dataclass(frozen=True)
class Inner:
    number: float
    size: tuple[int, int] | None


@dataclass(frozen=True)
class Outer:
    inner: Inner
    many: tuple[Inner, ...]
    word: Literal["a", "b"]
    severity: Severity
    method: Annotated[Any, OneOf(METHODS)]
    path: Path
    free: Mapping[str, Any] | None
    tensors: Tensors
    flag: bool = False
    listed: Any = field(default_factory=list)


GOOD, CONTAINERS = pack(
    Outer(
        Inner(1.0, (2, 3)), (Inner(1, None),), "a", Severity.LOW, METHODS["clp"](), Path("p"), None,
        {"w": TENSOR},
    )
)  # fmt: skip


def changed(place, value):
    *path, last = place
    data = copy.deepcopy(GOOD)
    inner = data
    for key in path:
        inner = inner[key]
    if value is KeyError:
        del inner[last]
    else:
        inner[last] = value
    return data


def deep(levels):
    return [deep(levels - 1)] if levels else []


@pytest.mark.parametrize(
    ("place", "value", "words"),
    [
        (["flag"], KeyError, "flag is not there"),
        (["inner", "number"], KeyError, "inner.number is not there"),
        (["extra"], 1, "extra is not known"),
        (["inner", "extra"], 1, "inner.extra is not known"),
        (["inner"], [], "inner is not a mapping"),
        (["inner", "number"], "1", "inner.number is not of type float"),
        (["inner", "number"], True, "inner.number is not of type float"),
        (["inner", "number"], float("inf"), "inner.number is not of type float"),
        (["inner", "number"], 10**400, "inner.number is not of type float"),
        (["inner", "number"], None, "inner.number is not of type float"),
        (["inner", "size"], [1], "inner.size is not a list of 2"),
        (["inner", "size"], [1, 2.0], "inner.size.1 is not of type int"),
        (["inner", "size"], [1, 1 << 70], "inner.size.1 is not of type int"),
        (["inner", "size"], "12", "inner.size is not a list"),
        (["many"], [GOOD["inner"], 7], "many.1 is not a mapping"),
        (["word"], "c", "word is not one of"),
        (["severity"], 9, "severity is not one of"),
        (["severity"], True, "severity is not one of"),
        (["method"], {"none": {}}, "method is not one of"),
        (["method"], {**GOOD["method"], "wiper": {}}, "method is not one of"),
        (["method", "clp", "deviations"], KeyError, "method.deviations is not there"),
        (["path"], "a\0b", "path is not a path"),
        (["flag"], 1, "flag is not of type bool"),
        (["tensors"], "elsewhere", "tensors is not there"),
        (["tensors"], {"w": [1.0]}, "tensors is not there"),
        (["listed"], deep(DEPTH), "listed is not at most 32 levels deep"),
        (["listed"], [10**400], "listed is not a usable value"),
        (["listed"], [float("nan")], "listed is not a usable value"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_not_declared_is_refused(place, value, words):
    assert unpack(Outer, GOOD, CONTAINERS).inner == Inner(1.0, (2, 3))
    with pytest.raises(Malformed, match=words):
        unpack(Outer, changed(place, value), CONTAINERS)


@pytest.mark.parametrize(
    ("containers", "words"),
    [
        ({}, "tensors is not there"),
        ({"tensors": b"{}"}, "tensors: The file ends"),
        ({**CONTAINERS, "more": b""}, "the container 'more' is not expected"),
    ],
)
def test_tensors_are_those_that_a_field_takes(containers, words):
    with pytest.raises(Malformed, match=words):
        unpack(Outer, GOOD, containers)


def test_a_setting_out_of_range_is_the_method_s_to_refuse():
    with pytest.raises(Problem, match="of clp must be"):
        unpack(Outer, changed(["method", "clp", "deviations"], -1), CONTAINERS)


def test_a_method_that_no_table_has_does_not_leave():
    with pytest.raises(Malformed, match="method is not one of"):
        pack(PurifyRequest(**MODEL, clean=Path("c"), method=object()))
