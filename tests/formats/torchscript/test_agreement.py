"""What the gate accepts, torch loads with the same tensors, or not at all: on archives with a damaged member."""

import io
import random
import zipfile
from collections import Counter

import pytest
import torch
from torchscript_files import archive, member, network, rezip

from formats import FormatError, Source
from formats.torchscript.manifest import read_manifest


def damaged(data, chance):
    """A byte changed, taken out, or a few copied to elsewhere."""
    found = bytearray(data)
    for _ in range(chance.choice([1, 1, 2])):
        at, to, way = chance.randrange(len(found)), chance.randrange(len(found)), chance.randrange(4)
        piece = found[at : at + chance.randrange(1, 12)]
        if way == 0:
            found[at] = chance.randrange(256)
        elif way == 1:
            found[at] ^= 1 << chance.randrange(8)
        elif way == 2:
            del found[at]
        else:
            found[to : to + len(piece)] = piece
    return bytes(found)


def held(data, manifest, name):
    address = manifest.tensors[name]
    raw = member(data, address.member)[address.offset : address.offset + address.length]
    return address.shape, raw


@pytest.mark.filterwarnings("ignore")  # of code that torch finds odd
@pytest.mark.parametrize("how", ["scripted", "traced"])
def test_torch_loads_the_same_tensors_from_damaged_archives(how):
    whole, chance, outcomes = archive(network("tied"), how), random.Random(0), Counter()
    with zipfile.ZipFile(io.BytesIO(whole)) as old:
        names = [name.partition("/")[2] for name in old.namelist() if name.endswith((".pkl", ".py"))]
    for _ in range(500):
        name = chance.choice(names)
        data = rezip(whole, {name: damaged(member(whole, name), chance)})
        try:
            manifest = read_manifest(Source("m", data))
        except FormatError:
            outcomes["refused"] += 1
            continue
        try:
            loaded = torch.jit.load(io.BytesIO(data))
        except RuntimeError:  # its compiler knows more of types than the gate asks
            outcomes["not loaded"] += 1
            continue
        outcomes["same"] += 1
        for key, value in loaded.state_dict().items():
            assert held(data, manifest, key) == (value.shape, value.contiguous().numpy().tobytes()), name
    assert outcomes["same"] > 10 < outcomes["refused"], outcomes
