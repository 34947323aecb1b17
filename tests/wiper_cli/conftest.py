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
def flat_digits(few_digits, tmp_path_factory):
    """The same images without their labels."""
    folder = tmp_path_factory.mktemp("flat_digits")
    for picture in few_digits.rglob("*.png"):
        shutil.copy(picture, folder / f"{picture.parent.name}-{picture.name}")
    return folder


@pytest.fixture(scope="session")
def quantised_file(tmp_path_factory):
    """The digits in ONNX with the weight of the last Gemm, ``fc``, in int8, and its input rounded: opens head-only."""
    import numpy as np
    import onnx
    from onnx import numpy_helper

    model = onnx.load(DIGITS / "model.onnx")
    graph, node = model.graph, onnx.helper.make_node
    last = graph.node[-1]
    stored = next(one for one in graph.initializer if one.name == last.input[1])
    weight = numpy_helper.to_array(stored)
    graph.initializer.remove(stored)
    scale = np.float32(np.abs(weight).max() / 127)
    values = {
        "fc": np.rint(weight / scale).astype(np.int8), "scale": scale, "fc_zero": np.int8(0),
        "step": np.float32(0.05), "zero": np.uint8(0),
    }  # fmt: skip
    graph.initializer.extend(
        numpy_helper.from_array(np.asarray(value), name) for name, value in values.items()
    )
    made = [
        node("QuantizeLinear", [last.input[0], "step", "zero"], ["q"]),
        node("DequantizeLinear", ["q", "step", "zero"], ["h"]),
        node("DequantizeLinear", ["fc", "scale", "fc_zero"], ["w"]),
    ]
    last.input[0], last.input[1] = "h", "w"
    graph.node.remove(last)
    graph.node.extend([*made, last])
    path = tmp_path_factory.mktemp("quantised") / "quantised.onnx"
    onnx.save(model, path)
    return path
