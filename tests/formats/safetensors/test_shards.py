"""Safetensors in several files with an index, as large models of a hub are laid out."""

import json
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from formats import (
    Hostile,
    Source,
    Unreadable,
    edit_of,
    identify,
    inspect,
    open_model,
    own_names,
    read_source,
    serve,
    write_edit,
)
from formats.hub import model_in
from formats.safetensors.torchvision_stub import import_torchvision

NAME = "model.safetensors.index.json"
SHARDS = {"model-1-of-2.safetensors": ["a", "b"], "model-2-of-2.safetensors": ["c"]}


def put(folder: Path, weight_map=None, shards=SHARDS) -> Path:
    index = weight_map or {name: file for file, names in SHARDS.items() for name in names}
    (folder / NAME).write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": index}, indent=2))
    for file, names in shards.items():
        save_file({name: torch.arange(4.0) + ord(name) for name in names}, folder / file, {"format": "pt"})
    return folder / NAME


def test_a_folder_of_shards_is_one_model(tmp_path):
    put(tmp_path)
    assert model_in(tmp_path) == tmp_path / NAME
    source = read_source(tmp_path / NAME)
    manifest = inspect(source)
    assert (identify(source.data, NAME), manifest.metadata) == ("safetensors", {"format": "pt"})
    assert {name: a.member for name, a in manifest.tensors.items()} == {
        name: file for file, names in SHARDS.items() for name in names
    }


@pytest.mark.parametrize(
    ("weight_map", "words"),
    [
        (
            {"a": "model-1-of-2.safetensors", "b": "model-1-of-2.safetensors"},
            None,
        ),  # an unlisted shard is not read
        ({"a": "model-1-of-2.safetensors"}, "'b' is nowhere by the index and is in 'model-1"),
        ({"a": "model-1-of-2.safetensors", "b": "model-2-of-2.safetensors"}, "'b' is in 'model-2"),
        ({"a": "lost.safetensors"}, "is missing"),
        ({"a": 3}, "no weight_map"),
    ],
)
def test_the_index_has_to_match(tmp_path, weight_map, words):
    put(tmp_path, weight_map)
    if words is None:
        assert {*inspect(read_source(tmp_path / NAME)).tensors} == {"a", "b"}
        return
    with pytest.raises(Unreadable, match=words):
        inspect(read_source(tmp_path / NAME))


@pytest.mark.parametrize("location", ["../model.safetensors", "/etc/passwd", "a/b.safetensors"])
def test_shards_lie_beside_the_index(tmp_path, location):
    put(tmp_path, {"a": location})
    with pytest.raises(Hostile) as caught:
        read_source(tmp_path / NAME)
    assert caught.value.rule == "WIPER-FILE-001"


def test_no_tensor_stands_twice_and_every_shard_passes_the_gate(tmp_path):
    put(tmp_path, shards={**SHARDS, "model-2-of-2.safetensors": ["c", "a"]})
    with pytest.raises(Hostile, match="'a' appears twice") as caught:
        inspect(read_source(tmp_path / NAME))
    assert caught.value.rule == "WIPER-ST-003"
    index = '{"weight_map": {"a": "x.safetensors", "a": "y.safetensors"}}'
    with pytest.raises(Hostile, match="appears twice"):
        inspect(Source(NAME, index.encode()))
    put(tmp_path)
    shard = tmp_path / "model-2-of-2.safetensors"
    shard.write_bytes(shard.read_bytes() + b"more")
    with pytest.raises(Hostile) as caught:
        inspect(read_source(tmp_path / NAME))
    assert caught.value.rule == "WIPER-ST-009"


def test_other_json_is_no_model():
    for data in (b'{"architectures": []}', b'["weight_map"]', b'{"weight_map": 1'):
        with pytest.raises(Unreadable):
            inspect(Source("config.json", data))


def test_what_is_purified_loads_in_the_library_and_keeps_all_other_bytes(tmp_path):
    import_torchvision()
    transformers = pytest.importorskip("transformers")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    torch.manual_seed(0)
    config = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 12], depths=[1, 1], layer_type="basic", num_labels=4
    )
    network = transformers.ResNetForImageClassification(config).eval()
    network.save_pretrained(tmp_path, max_shard_size="6KB")
    path = model_in(tmp_path)
    assert path.name == NAME
    source = read_source(path)
    assert len(source.files) > 1
    x = torch.randn(2, 3, 32, 32)
    model, manifest = open_model(source), inspect(source)
    with torch.no_grad():
        torch.testing.assert_close(model.network(x), network(x).logits, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(serve(source)(x), network(x).logits.detach(), rtol=1e-4, atol=1e-5)

    trained = deepcopy(model.network)
    with torch.no_grad():
        model.named(trained)[model.head.bias].add_(1)
    written = write_edit(source, manifest, edit_of(model, trained))
    assert [name for name in written if name] == [manifest.tensors[model.head.bias].member]
    files = own_names(source, manifest, written, NAME)
    assert all(name == NAME or name.endswith(".safetensors") for name in files)
    out = tmp_path / "out"
    out.mkdir()
    for name, content in files.items():
        (out / name).write_bytes(content)
    (out / "config.json").write_bytes((tmp_path / "config.json").read_bytes())
    again = transformers.ResNetForImageClassification.from_pretrained(out).eval()
    torch.testing.assert_close(again(x).logits, network(x).logits + 1, rtol=1e-4, atol=1e-5)
    before, after = (
        {name: value for file in folder.glob("*.safetensors") for name, value in load_file(file).items()}
        for folder in (tmp_path, out)
    )
    assert [name for name in before if not torch.equal(before[name], after[name])] == [model.head.bias]
