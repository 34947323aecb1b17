import io
import random
import struct
import zipfile

import pytest
import torch
from torchscript_files import headers, rezip

from formats import FormatError, Hostile, Unreadable
from formats.torchscript.central import read_archive
from formats.torchscript.magic import recognises


def refuses(data, rule):
    with pytest.raises(Hostile) as caught:
        read_archive(data)
    assert caught.value.rule == rule


def test_reads_what_zipfile_reads(plain):
    archive = read_archive(plain)
    with zipfile.ZipFile(io.BytesIO(plain)) as other:
        assert {f"{archive.root}/{name}" for name in archive.entries} == set(other.namelist())
        for name, entry in archive.entries.items():
            assert archive.read(name) == other.read(f"{archive.root}/{name}")
            assert entry.crc == other.getinfo(f"{archive.root}/{name}").CRC


@pytest.mark.parametrize("zip64", [False, True])
def test_reads_other_packers(plain, zip64):
    packed = read_archive(rezip(plain, {}, deflate=("data.pkl",), zip64=zip64))
    assert packed.read("data.pkl") == read_archive(plain).read("data.pkl")
    assert packed.entries["data.pkl"].method == 8


def test_truncated_or_random_bytes(plain):
    for data in (*(plain[:keep] for keep in (0, 3, 100, -1, -30, -500)), random.Random(0).randbytes(5000)):
        with pytest.raises(Unreadable):
            read_archive(data)


def junk_between(plain):
    """An archive with bytes before its directory that belong to nothing."""
    first = min(headers(plain, name)[2] for name in read_archive(plain).entries)
    between = bytearray(plain[:first] + b"junk" + plain[first:])
    end = len(between) - 22
    struct.pack_into("<L", between, end + 16, first + 4)
    struct.pack_into("<Q", between, end - 20 + 8, end - 20 - 56)
    struct.pack_into("<Q", between, end - 20 - 56 + 48, first + 4)
    return bytes(between)


def test_junk_before_after_and_between(plain):
    refuses(b"#!/bin/sh\n" + plain, "WIPER-TS-001")
    refuses(plain + b"\0" * 100, "WIPER-TS-002")
    between = junk_between(plain)
    with zipfile.ZipFile(io.BytesIO(between)) as other:
        assert other.testzip() is None
    refuses(between, "WIPER-TS-001")


def test_fields_that_disagree(plain):
    entry = read_archive(plain).entries
    local, _, central = headers(plain, "data.pkl")
    flips = [
        ("002", {len(plain) - 22 - 20 - 56 + 32: 1}),  # of the two end records
        *[
            ("003", {local + at: bit}) for at, bit in ((6, 1), (8, 8), (14, 1), (30, 32))
        ],  # flags, method, CRC, name
        ("003", {entry["data.pkl"].descriptor + 4: 1}),
        *[
            ("006", {local + a: bit, central + b: bit}) for a, b, bit in ((6, 8, 1), (8, 10, 12))
        ],  # encrypted, method
        ("007", {entry["data/0"].payload + 2: 4}),
    ]
    for rule, bits in flips:
        changed = bytearray(plain)
        for at, bit in bits.items():
            changed[at] ^= bit
        refuses(bytes(changed), f"WIPER-TS-{rule}")
    refuses(plain[:-2] + b"\5\0hello", "WIPER-TS-002")


def test_records_marked_as_folders(plain):
    changed = bytearray(plain)
    changed[headers(plain, "data/0")[2] + 38] = 0x10
    assert zipfile.ZipFile(io.BytesIO(changed)).testzip() is None
    refuses(bytes(changed), "WIPER-TS-017")


@pytest.mark.parametrize("name", ["../evil", "/etc/passwd", "code/../../x", "code//x.py", "a\\b", "c:x", "é"])
def test_names_out_of_place(plain, name):
    refuses(rezip(plain, {name: b"x"}), "WIPER-TS-005")


def test_names_alike_but_for_capitals_and_bombs(plain):
    refuses(rezip(plain, {"DATA.pkl": b"x"}), "WIPER-TS-004")
    refuses(rezip(plain, {"code/x.py": b"\0" * (1 << 20)}, deflate=("code/x.py",)), "WIPER-TS-008")


def with_extra(plain, central, local=b""):
    """A copy in which Python wrote fields of its own into the headers of data.pkl."""
    stream = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(plain)) as old, zipfile.ZipFile(stream, "w") as new:
        for info in old.infolist():
            own = zipfile.ZipInfo(info.filename)
            own.extra = local if info.filename.endswith("data.pkl") else b""
            new.writestr(own, old.read(info))
            own.extra = central if info.filename.endswith("data.pkl") else b""
    return stream.getvalue()


def test_fields_that_some_readers_obey(plain):
    """Python 3.13 takes the name of a member from field 0x7075; torch pads with 0x4246."""
    times, padding = struct.pack("<2H5s", 0x5455, 5, b"\1abcd"), struct.pack("<2H3s", 0x4246, 3, b"ZZZ")
    assert read_archive(with_extra(plain, times, times + padding)).read("data.pkl")
    name = struct.pack("<2HBL4s", 0x7075, 9, 1, 0, b"evil")
    wide = struct.pack("<2HQ", 1, 8, 7)
    for central, local in ((name, b""), (b"", name), (times + b"abc", b""), (b"", times[:-1]), (wide, b"")):
        refuses(with_extra(plain, central, local), "WIPER-TS-003")


def test_names_that_torch_cuts_off(plain):
    refuses(rezip(plain, {"code/" + "x" * 510 + ".py": b"x"}), "WIPER-TS-005")


def test_many_members_are_refused_before_python_lists_them(plain, monkeypatch):
    monkeypatch.setattr("formats.torchscript.magic.MAX_ENTRIES", 3)
    monkeypatch.setattr("formats.torchscript.central.MAX_ENTRIES", 3)
    monkeypatch.setattr(zipfile, "ZipFile", None)
    assert recognises(plain)
    refuses(plain, "WIPER-TS-008")


def test_overlap(plain):
    _, _, central = headers(plain, "data/0")
    other, _, _ = headers(plain, "data/1")
    changed = bytearray(plain)
    struct.pack_into("<L", changed, central + 42, other)
    refuses(bytes(changed), "WIPER-TS-003")


def test_a_damaged_directory_is_refused_or_read_as_torch_reads_it(plain):
    """A record that is marked as a folder, among others, of which torch reads no byte."""
    dice, refused = random.Random(0), 0
    directory = plain.index(b"PK\1\2")
    for _ in range(600):
        changed = bytearray(plain)
        changed[dice.randrange(directory, len(plain))] = dice.randrange(256)
        try:
            archive = read_archive(bytes(changed))
        except FormatError:
            refused += 1
            continue
        reader = torch._C.PyTorchFileReader(io.BytesIO(changed))
        assert sorted(reader.get_all_records()) == sorted(archive.entries)
        for name in archive.entries:
            assert archive.read(name) == reader.get_record(name)
    assert min(refused, 600 - refused) > 60
