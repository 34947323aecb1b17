"""The table of hostile-looking headers, row by row: refused here, whatever the library says."""

import json
import struct
import tracemalloc

import pytest
import safetensors
import torch
from safetensors.torch import save

from formats import Hostile, Source, Unreadable, Unsupported
from formats.dtypes import BITS, DTYPES
from formats.safetensors.manifest import RULES, read_header, read_manifest
from formats.safetensors.opener import open_file

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
    "no value": ("005", container(b'{"w": }')),
    "bad JSON": ("002", container(TEXT.replace("[2]", "[2}").encode())),
    "deep in an entry": ("002", container(b'{"w": {"shape": ' + b"[" * 4000 + b"}}")),
    "a comma too many": ("002", container(TEXT[:-1].encode() + b",}")),
    "no comma": ("002", container(TEXT[:-1].encode() + b'"v":' + json.dumps(ONE).encode() + b"}")),
    "minus nothing": ("002", container(TEXT.replace("[0,", "[-0,").encode())),
    "64 bits and more": ("002", container(TEXT.replace("[2]", f"[{'9' * 21}]").encode())),
    "very deep": ("005", container(b'{"w":' + b"[" * 100_000 + b"]" * 100_000 + b"}")),
    "float dimension": ("002", container(TEXT.replace("[2]", "[2.0]").encode())),
    "infinite dimension": ("002", container(TEXT.replace("[2]", "[Infinity]").encode())),
    "endless integer": ("005", container(TEXT.replace("[2]", f"[{'9' * 5000}]").encode())),
    "duplicate key": ("003", container(f'{{"w": {json.dumps(ONE)}, "w": {json.dumps(ONE)}}}'.encode())),
    "duplicate by escape": ("003", container(b'{"__metadata__": {}, "__metadat\\u0061__": {}}', b"")),
    "duplicate in metadata": ("003", container(b'{"__metadata__": {"a": "1", "a": "2"}}', b"")),
    "metadata null": ("004", container({"__metadata__": None, **entry()})),
    "metadata number": ("004", container({"__metadata__": {"a": 1}, **entry()})),
    "metadata surrogate": ("004", container(b'{"__metadata__": {"a": "\\ud800"}}', b"")),
    "unknown field": ("005", container(entry(hidden="x"))),
    "missing field": ("005", container({"w": {"dtype": "F32", "shape": [2]}})),
    "entry is a list": ("005", container({"w": [1]})),
    "entry of 5,000 sizes": ("005", container(entry(shape=[1] * 5000))),
    "65 sizes": ("007", container(entry(shape=[1] * 64 + [2]))),
    "a half byte": ("008", container(entry(dtype="F4", shape=[3], data_offsets=[0, 2]), b"\0" * 2)),
    "six bits": ("008", container(entry(dtype="F6_E2M3", shape=[2], data_offsets=[0, 2]), b"\0" * 2)),
    "offsets of three": ("005", container(entry(data_offsets=[0, 4, 8]))),
    "truth value as size": ("005", container(entry(shape=[True, 2]))),
    "unknown dtype": ("006", container(entry(dtype="F9"))),
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
    "path within a name": ("010", container({"a/../../w": ONE})),
    "whole path as name": ("010", container({"/etc/w": ONE})),
    "backslash in name": ("010", container({"a\\w": ONE})),
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


def test_names_as_keras_writes_them_and_every_dtype_of_the_format():
    with_path = {"conv2d/kernel:0": ONE, "layers/dense/vars/0": {**ONE, "data_offsets": [8, 16]}}
    tensors, _ = read_header(container(with_path, b"\0" * 16))
    assert [a.name for a in tensors] == [*with_path]
    for name, bits in BITS.items():
        one = {"w": {"dtype": name, "shape": [4, 2], "data_offsets": [0, bits]}}
        (address,) = read_header(container(one, b"\0" * bits))[0]
        assert (address.size, address.length, address.writable) == (bits, bits, name in DTYPES)
        assert safetensors.deserialize(container(one, b"\0" * bits))[0][1]["dtype"] == name


def test_what_no_layer_of_ours_reads_is_said_and_not_opened():
    source = Source("m", container({"w": {"dtype": "F8_E8M0", "shape": [8], "data_offsets": [0, 8]}}))
    manifest = read_manifest(source)
    assert manifest.notes == ("stored as F8_E8M0, which is not opened here",)
    with pytest.raises(Unsupported, match="stored as F8_E8M0"):
        open_file(source, manifest, "resnet18")


@pytest.mark.parametrize(
    "text",
    [
        '{"w":{"shape":[2],"data_offsets":[0,8],"dtype":"F32"}}',
        '{ "w" :\n{"dtype": "F32",\t"shape": [ 2 ], "data_offsets": [0, 8] } }  ',
        '{"__metadata__":{},"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}',
        '{"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"__metadata__":{"a":"{\\"b\\": [1]}}"}}',
    ],
)
def test_every_spelling_that_the_library_takes_and_no_other_reader_minds(text):
    data = container(text.encode())
    assert safetensors.deserialize(data)[0][0] == read_header(data)[0][0].name == "w"


@pytest.mark.parametrize("filling", [b"{}", b"[]", b'{"dtype":"U8"}', b"1", b'"a"'])
def test_a_header_full_of_nothing_is_refused_at_its_first_entry(filling):
    text = b'{"__metadata__":{},"a":[' + b",".join([filling] * ((4 << 20) // (len(filling) + 1))) + b"]}"
    data = container(text, b"")
    tracemalloc.start()
    with pytest.raises(Hostile):
        read_header(data)
    assert tracemalloc.get_traced_memory()[1] < 3 * len(data)
    tracemalloc.stop()


def test_every_rule_has_a_case():
    assert {f"WIPER-ST-{rule}" for rule, _ in HOSTILE.values()} == set(RULES)


def test_every_truncation_is_called_one():
    data = save({"a": torch.arange(5.0), "b": torch.arange(4)})
    for size in range(len(data)):
        with pytest.raises(Unreadable, match="truncated"):
            read_header(data[:size])
