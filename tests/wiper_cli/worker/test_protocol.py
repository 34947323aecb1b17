from __future__ import annotations

import io
import struct
from dataclasses import dataclass

import pytest

from formats import NewTensor
from wiper_cli.verdict import ExitCode
from wiper_cli.worker import protocol
from wiper_cli.worker.codec import Tensors
from wiper_cli.worker.protocol import (
    JSON_LIMIT,
    Log,
    Progress,
    ProtocolError,
    Refusal,
    Truncated,
    receive,
    send,
)


@dataclass(frozen=True)
class Weights:
    share: float
    tensors: Tensors


def frame(kind, data):
    return struct.pack("<Qc", len(data), kind) + data


def test_messages_come_back_in_order():
    pipe = io.BytesIO()
    messages = [
        Log("ü"),
        Weights(0.1, {"w": NewTensor("U8", (2,), b"\x00\x01")}),
        Progress("a", 1, 2),
        Refusal("No.", ExitCode.USAGE),
    ]
    for message in messages:
        send(pipe, message)
    pipe.seek(0)
    for message in messages:
        assert receive(pipe, Log, Weights, Progress, Refusal) == message
    assert receive(pipe, Log) is None


def test_not_a_number_never_crosses():
    with pytest.raises(ValueError, match="JSON compliant"):
        send(io.BytesIO(), Weights(float("nan"), {}))


LOG = frame(b"J", b'{"Log": {"sentence": "a"}}')


@pytest.mark.parametrize(
    ("data", "words", "kind"),
    [
        (b"\x01", "inside a frame", Truncated),
        (LOG[:-1], "inside a frame", Truncated),
        (frame(b"T", b"\1a"), "tensors of no message", Truncated),
        (frame(b"J", b"[]"), "none of Log", ProtocolError),
        (frame(b"J", b'{"Log": {"sentence": "a"}, "Progress": {}}'), "none of Log", ProtocolError),
        (frame(b"J", b'{"Progress": {"stage": "a", "done": 1, "total": 2}}'), "none of Log", ProtocolError),
        (frame(b"J", b'{"Log": {"sentence": NaN}}'), "does not parse", ProtocolError),
        (frame(b"J", b"{]"), "does not parse", ProtocolError),
        (frame(b"J", b'{"Log": {"sentence": 1e999}}'), "does not parse", ProtocolError),
        (frame(b"J", b'{"Log": {"sentence": 1%s}}' % (b"0" * 400)), "does not parse", ProtocolError),
        (frame(b"P", b"{}"), "unknown kind", ProtocolError),
        (struct.pack("<Qc", JSON_LIMIT + 1, b"J"), "too large", ProtocolError),
        (struct.pack("<Qc", 1 << 63, b"T"), "too large", ProtocolError),
        (struct.pack("<Qc", 1, b"T") + b"\x05names", "shorter than its name", ProtocolError),
        (frame(b"T", b"\1a") + LOG, "'a' is not expected", ProtocolError),
        (b"".join(frame(b"T", bytes([1, i])) for i in range(99)), "one too many", ProtocolError),
    ],
)
def test_what_is_no_message_is_refused(data, words, kind):
    with pytest.raises(kind, match=words):
        receive(io.BytesIO(data), Log)


def test_tensors_have_a_limit_all_together(monkeypatch):
    monkeypatch.setattr(protocol, "TENSOR_LIMIT", 10)
    with pytest.raises(ProtocolError, match="too large"):
        receive(io.BytesIO(frame(b"T", b"\1a12345678") + frame(b"T", b"\1b1234")), Log)
