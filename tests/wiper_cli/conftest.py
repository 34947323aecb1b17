"""The bundled digits as a job of the child sees them: few images, settled preprocessing, no process."""

import dataclasses
import shutil

import pytest
import torch

from wiper_cli.audit.requests import ScanRequest
from wiper_cli.commands.shared.example_files import example_folder
from wiper_cli.purifiers import METHODS

torch.set_num_threads(1)
DIGITS = example_folder()


class Heard:
    """A reporter that remembers."""

    def __init__(self):
        self.stages, self.logged = [], []

    def __call__(self, stage, done, total):
        self.stages.append((stage, done, total))

    def log(self, sentence):
        self.logged.append(sentence)


@pytest.fixture
def heard():
    return Heard()


@pytest.fixture(scope="session")
def hostile_folder(tmp_path_factory):
    """A folder of packages with well-known names, each of which writes its own into the file ``imported``."""
    folder = tmp_path_factory.mktemp("hostile")
    for name in ("formats", "triggers", "torch", "numpy", "safetensors", "click", "json", "multiprocessing"):
        (folder / name).mkdir()
        canary = f"open({str(folder / 'imported')!r}, 'a').write({name!r} + '\\n')\n"
        (folder / name / "__init__.py").write_text(canary)
    return folder


@pytest.fixture
def hostile(hostile_folder, monkeypatch):
    """Makes :func:`hostile_folder` the working directory; ``hostile()`` → the packages imported from it since."""
    monkeypatch.chdir(hostile_folder)
    imported = hostile_folder / "imported"
    imported.unlink(missing_ok=True)
    return lambda: imported.read_text().split() if imported.exists() else []


@pytest.fixture(scope="session")
def few_digits(tmp_path_factory):
    """12 clean images of every class."""
    folder = tmp_path_factory.mktemp("few_digits")
    for label in range(10):
        (folder / str(label)).mkdir()
        for picture in sorted((DIGITS / "clean" / str(label)).iterdir())[:12]:
            shutil.copy(picture, folder / str(label))
    return folder


@pytest.fixture(scope="session")
def job(few_digits):
    """``job(kind, **changes)``: a request over the digits in safetensors, without detectors; a purification trains the
    head for one epoch."""
    given = {
        "model": DIGITS / "model.safetensors", "clean": few_digits, "mean": (0.0,), "std": (1.0,),
        "input_size": (32, 32), "device": "cpu", "detectors": (),
        "method": METHODS["fine-tuning"](train="head", epochs=1),
    }  # fmt: skip

    def make(kind=ScanRequest, **changes):
        names = [field.name for field in dataclasses.fields(kind)]
        return kind(**{name: value for name, value in given.items() if name in names} | changes)

    return make


@pytest.fixture(scope="session")
def digits_subject(job):
    """The digits opened and measured; to be looked at only."""
    from wiper_cli.audit.subject import Notes, prepare

    return prepare(job(), Heard(), Notes())


@pytest.fixture(scope="session")
def quantised_file(tmp_path_factory):
    """An ONNX file that opens head-only: int8 weights around the last Gemm; 1 channel, 10 classes."""
    import numpy as np
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    random, node = np.random.default_rng(0), helper.make_node
    scale, step = np.float32(0.01), np.float32(0.02)
    nodes = [
        node("Conv", ["x", "conv"], ["a"], strides=[4, 4]),
        node("Relu", ["a"], ["b"]),
        node("GlobalAveragePool", ["b"], ["c"]),
        node("Flatten", ["c"], ["d"]),
        node("QuantizeLinear", ["d", "step", "zero"], ["q"]),
        node("DequantizeLinear", ["q", "step", "zero"], ["h"]),
        node("DequantizeLinear", ["fc", "scale", "fc_zero"], ["w"]),
        node("Gemm", ["h", "w"], ["y"], transB=1),
    ]
    values = {
        "conv": random.standard_normal((12, 1, 4, 4)).astype(np.float32),
        "step": step, "zero": np.uint8(3), "scale": scale, "fc_zero": np.int8(0),
        "fc": random.integers(-127, 128, (10, 12)).astype(np.int8),
    }  # fmt: skip
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ("n", 1, 32, 32))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ("n", 10))],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in values.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path = tmp_path_factory.mktemp("quantised") / "quantised.onnx"
    onnx.save(model, path)
    return path
