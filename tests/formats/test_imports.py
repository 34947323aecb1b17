"""What needs no torch imports none, and the surface is what it says."""

import importlib
import subprocess
import sys

import formats

HEAVY = ("torch", "onnx", "onnxruntime", "torchvision", "numpy", "safetensors", "click", "rich")

CODE = """
import sys
import formats
from formats import Unreadable, identify, inspect, read_source, write_edit
from formats import Source, Edit, NewTensor, pack_tensors, unpack_tensors
import json, struct
header = json.dumps({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
source = Source("m", struct.pack("<Q", len(header)) + header + b"1234")
edit = Edit(unpack_tensors(pack_tensors({"w": NewTensor("F32", (1,), b"abcd")})))
assert write_edit(source, inspect(source), edit)[""].endswith(b"abcd")
try:
    identify(b"of no kind, so that all were asked", "m")
except Unreadable:
    print([name for name in sys.argv[1:] if name in sys.modules])
"""


def test_reading_and_writing_need_the_standard_library_only():
    done = subprocess.run([sys.executable, "-c", CODE, *HEAVY], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_public_name_exists():
    for name in formats.__all__:
        assert getattr(formats, name) is not None
    importlib.import_module("formats.identify")
    assert callable(formats.identify), "the module hides the function of the same name"
