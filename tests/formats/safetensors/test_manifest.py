"""The table of hostile-looking headers, row by row: refused here, whatever the library says."""

import json
import struct

import pytest
import torch
from safetensors.torch import save

from formats import Hostile, Source, Unreadable
from formats.safetensors.manifest import RULES, read_header, read_manifest

ONE = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


def container(header, data=b"\0" * 8):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def entry(**changes):
    return {"w": {**ONE, **changes}}


def test_accepts_trailing_spaces_zero_sizes_and_scalars():
    header = {
        "e": {"dtype": "F32", "shape": [0, 4], "data_offsets": [0, 0]},
        "s": {"dtype": "F64", "shape": [], "data_offsets": [0, 8]},
    }
    tensors, _ = read_header(container(json.dumps(header).encode() + b"  "))
    assert [a.shape for a in tensors] == [(0, 4), ()]
    assert read_manifest(Source("m", save({"a": torch.ones(2)}, {"format": "pt"}))).metadata == {
        "format": "pt"
    }


def test_notes_unaligned_tensors():
    header = {
        "a": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]},
        "b": {"dtype": "F32", "shape": [1], "data_offsets": [1, 5]},
    }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    assert "unaligned" in read_manifest(Source("m", container(text, b"\0" * 5))).notes[0]


TWO = {
    "a": {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]},
    "b": {"dtype": "U8", "shape": [4], "data_offsets": [4, 8]},
}
TEXT = json.dumps(entry())

HOSTILE = {
    "leading space": ("002", container(b" " + TEXT.encode())),
    "newline padding": ("002", container(TEXT.encode() + b"\n")),
    "trailing NUL": ("002", container(TEXT.encode() + b"\0")),
    "invalid UTF-8": ("002", container(TEXT.replace("w", "\xff").encode("latin-1"))),
    "no object": ("002", container(b"[1, 2, 3]")),
    "bad JSON": ("002", container(b'{"w": }')),
    "very deep": ("002", container(b'{"w":' + b"[" * 100_000 + b"]" * 100_000 + b"}")),
    "float dimension": ("002", container(TEXT.replace("[2]", "[2.0]").encode())),
    "infinite dimension": ("002", container(TEXT.replace("[2]", "[Infinity]").encode())),
    "endless integer": ("002", container(TEXT.replace("[2]", f"[{'9' * 5000}]").encode())),
    "duplicate key": ("003", container(f'{{"w": {json.dumps(ONE)}, "w": {json.dumps(ONE)}}}'.encode())),
    "duplicate by escape": ("003", container(b'{"__metadata__": {}, "__metadat\\u0061__": {}}', b"")),
    "duplicate in metadata": ("003", container(b'{"__metadata__": {"a": "1", "a": "2"}}', b"")),
    "metadata null": ("004", container({"__metadata__": None, **entry()})),
    "metadata number": ("004", container({"__metadata__": {"a": 1}, **entry()})),
    "metadata surrogate": ("004", container(b'{"__metadata__": {"a": "\\ud800"}}', b"")),
    "unknown field": ("005", container(entry(hidden="x"))),
    "missing field": ("005", container({"w": {"dtype": "F32", "shape": [2]}})),
    "entry is a list": ("005", container({"w": [1]})),
    "offsets of three": ("005", container(entry(data_offsets=[0, 4, 8]))),
    "truth value as size": ("005", container(entry(shape=[True, 2]))),
    "unknown dtype": ("006", container(entry(dtype="F4"))),
    "negative size": ("007", container(entry(shape=[-1, -2]))),
    "huge size": ("007", container(entry(shape=[0, 2**63], data_offsets=[0, 0]), b"")),
    "product overflow": ("007", container(entry(shape=[2**32, 2**32]))),
    "range differs from shape": ("008", container(entry(shape=[3]))),
    "offsets backwards": ("008", container(entry(data_offsets=[8, 0]))),
    "offset negative": ("008", container(entry(data_offsets=[-8, 0]))),
    "overlap": ("009", container({**TWO, "b": {**TWO["b"], "data_offsets": [2, 6]}})),
    "shared range": ("009", container({"a": TWO["a"], "b": TWO["a"]}, b"\0" * 4)),
    "hole": ("009", container({**TWO, "b": {**TWO["b"], "data_offsets": [5, 9]}}, b"\0" * 9)),
    "hole at the start": ("009", container(entry(data_offsets=[4, 12]), b"\0" * 12)),
    "trailing byte": ("009", container(entry(), b"\0" * 9)),
    "empty name": ("010", container({"": ONE})),
    "path in name": ("010", container({"../w": ONE})),
    "NUL in name": ("010", container({"w\0": ONE})),
    "long name": ("010", container({"w" * 513: ONE})),
    "name not ASCII": ("010", container({"ü": ONE})),
    "surrogate name": ("010", container(b'{"\\ud800": ' + json.dumps(ONE).encode() + b"}")),
    "BOOL of 7": ("011", container(entry(dtype="BOOL", shape=[8]), b"\1\0\1\0\7\0\0\0")),
    "long header": ("001", struct.pack("<Q", (16 << 20) + 1) + b"{}"),
}  # fmt: skip


@pytest.mark.parametrize(("rule", "data"), HOSTILE.values(), ids=HOSTILE)
def test_refuses_what_no_honest_writer_makes(rule, data):
    with pytest.raises(Hostile) as refusal:
        read_header(data)
    assert refusal.value.rule == f"WIPER-ST-{rule}"
    assert str(refusal.value).isprintable()


def test_every_rule_has_a_case():
    assert {f"WIPER-ST-{rule}" for rule, _ in HOSTILE.values()} == set(RULES)


def test_every_truncation_is_called_one():
    data = save({"a": torch.arange(5.0), "b": torch.arange(4)})
    for size in range(len(data)):
        with pytest.raises(Unreadable, match="truncated"):
            read_header(data[:size])
