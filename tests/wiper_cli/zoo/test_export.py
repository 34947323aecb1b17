"""The five files of a trained network, each as it is said to be."""

import json
from collections import Counter

import onnx
import pytest
import torch

from formats import identify, inspect, open_model, read_source, serve
from wiper_cli.zoo.architectures import find, initialise
from wiper_cli.zoo.export import FILES, export

CONFIG = {
    "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.2, 0.2], "input_size": [3, 16, 16],
    "label_names": ["a", "b", "c"],
}  # fmt: skip


@pytest.fixture(scope="module")
def network():
    made = find("resnet10-patch-w4").build(3, 3)
    generator = torch.Generator().manual_seed(0)
    initialise(made, generator)
    for name, value in made.named_buffers():
        if "running" in name:
            value.uniform_(0.5, 1.5, generator=generator)
    return made.train()


@pytest.fixture(scope="module")
def folder(network, tmp_path_factory):
    made = tmp_path_factory.mktemp("files")
    export(network, (3, 16, 16), made, CONFIG)
    return made


def test_what_is_written_is_what_the_table_says(folder, network):
    assert {path.name for path in folder.iterdir()} == {*FILES, "config.json"}
    assert json.loads((folder / "config.json").read_text()) == CONFIG
    assert network.training, "the network itself was put into eval mode"


@pytest.mark.parametrize("name", FILES)
def test_every_file_opens_alone_and_answers_any_batch_alike(folder, network, name):
    source = read_source(folder / name)
    model = open_model(source)
    assert (model.class_names, model.preprocessing.size) == (("a", "b", "c"), (16, 16))
    assert model.input.batch is None
    x = torch.randn(5, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = network.eval()(x)
        network.train()
        torch.testing.assert_close(model.network(x), expected, atol=1e-4, rtol=0)
        torch.testing.assert_close(serve(source)(x), expected, atol=1e-4, rtol=0)


def statistics(path):
    """How many running means the file keeps."""
    data = path.read_bytes()
    if identify(data, path.name) == "onnx":
        kinds = Counter(node.op_type for node in onnx.load_from_string(data).graph.node)
        return kinds["BatchNormalization"]
    return sum(name.endswith("running_mean") for name in inspect(read_source(path)).tensors)


@pytest.mark.parametrize("name", FILES)
def test_batch_norm_is_live_or_folded_as_said(folder, network, name):
    norms = sum(isinstance(module, torch.nn.BatchNorm2d) for module in network.modules())
    assert statistics(folder / name) == (norms if "live" in FILES[name] else 0)
