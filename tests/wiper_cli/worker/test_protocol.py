from __future__ import annotations

import io
import struct

import pytest

from wiper_cli.worker.protocol import JSON_LIMIT, ProtocolError, receive, send_json, send_tensors


def test_frames_come_back_in_order():
    pipe = io.BytesIO()
    send_json(pipe, {"a": [1, 2.5, "ü"]})
    send_tensors(pipe, b"\x00\x01")
    send_json(pipe, {})
    pipe.seek(0)
    assert receive(pipe) == ("J", {"a": [1, 2.5, "ü"]})
    assert receive(pipe) == ("T", b"\x00\x01")
    assert receive(pipe) == ("J", {})
    assert receive(pipe) is None


def test_not_a_number_never_crosses():
    with pytest.raises(ValueError, match="JSON compliant"):
        send_json(io.BytesIO(), {"x": float("nan")})


@pytest.mark.parametrize(
    "data",
    [
        b"\x01",
        struct.pack("<Qc", 5, b"J") + b"{}",
        struct.pack("<Qc", 2, b"J") + b"[]",
        struct.pack("<Qc", 2, b"J") + b"{]",
        struct.pack("<Qc", 2, b"P") + b"{}",
        struct.pack("<Qc", JSON_LIMIT + 1, b"J"),
        struct.pack("<Qc", 1 << 63, b"T"),
    ],
    ids=[
        "short header",
        "short payload",
        "no object",
        "no JSON",
        "unknown kind",
        "JSON too long",
        "tensors too long",
    ],
)
def test_what_is_no_frame_is_refused(data):
    with pytest.raises(ProtocolError):
        receive(io.BytesIO(data))
