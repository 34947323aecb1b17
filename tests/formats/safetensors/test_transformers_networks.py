"""Folders of transformers: every class opens as its library computes it, and a description can ask for nothing else."""

import json
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from formats import (
    UnknownArchitecture,
    Unsupported,
    edit_of,
    inspect,
    open_model,
    read_source,
    serve,
    write_edit,
)
from formats.safetensors.names import TRANSFORMERS as CLASSES
from formats.safetensors.torchvision_stub import import_torchvision

import_torchvision()
transformers = pytest.importorskip("transformers")
transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()

PLAIN = {
    "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24, "image_size": 32,
    "patch_size": 8,
}  # fmt: skip
STAGES = {"hidden_sizes": [8, 12, 16, 24], "depths": [1, 1, 1, 1], "image_size": 32}
HEADS = {**STAGES, "hidden_sizes": [8, 16, 24, 32], "num_attention_heads": [1, 1, 2, 2]}
WINDOWS = {
    "image_size": 32, "patch_size": 2, "embed_dim": 8, "depths": [1, 1], "num_heads": [2, 4], "window_size": 4,
}  # fmt: skip
#: Small networks by the library's name of their kind.
TINY = {
    "beit": {**PLAIN, "use_relative_position_bias": True},
    "bit": {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "num_groups": 4},
    "convnext": {**STAGES, "patch_size": 2},
    "convnextv2": {**STAGES, "patch_size": 2},
    "cvt": {"embed_dim": [8, 12, 16], "num_heads": [1, 2, 4], "depth": [1, 2, 3]},
    "data2vec-vision": PLAIN,
    "deit": PLAIN,
    "dinov2": PLAIN,
    "dinov2_with_registers": PLAIN,
    "efficientnet": {"image_size": 32, "width_coefficient": 0.1, "depth_coefficient": 0.2, "hidden_dim": 128},
    "focalnet": {
        "image_size": 32, "embed_dim": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "focal_levels": [2, 2],
        "focal_windows": [3, 3],
    },
    "levit": {
        "image_size": 64, "hidden_sizes": [16, 24, 32], "num_attention_heads": [2, 2, 2], "depths": [1, 1, 1],
        "key_dim": [8, 8, 8],
    },
    "mobilenet_v1": {"image_size": 32, "depth_multiplier": 0.1},
    "mobilenet_v2": {"image_size": 32, "depth_multiplier": 0.1},
    "mobilevit": {
        "image_size": 32, "hidden_sizes": [16, 24, 32], "neck_hidden_sizes": [8, 8, 16, 16, 16, 16, 32],
        "num_attention_heads": 2,
    },
    "mobilevitv2": {"image_size": 32, "width_multiplier": 0.1},
    "poolformer": STAGES,
    "pvt": {**HEADS, "num_labels": 7},
    "pvt_v2": HEADS,
    "regnet": {**STAGES, "embedding_size": 8, "hidden_sizes": [8, 16, 24, 32], "groups_width": 8},
    "resnet": {**STAGES, "embedding_size": 8, "layer_type": "basic"},
    "segformer": HEADS,
    "swiftformer": {"image_size": 64, "depths": [1, 1, 1, 1], "embed_dims": [8, 16, 24, 32]},
    "swin": WINDOWS,
    "swinv2": WINDOWS,
    "vit": PLAIN,
    "vit_msn": PLAIN,
}  # fmt: skip
NAMES = {index: f"class {index}" for index in range(7)}


def tiny(name: str, folder: Path) -> Path:
    """A folder as ``save_pretrained`` leaves it; its batch norms have seen something."""
    kind = getattr(transformers, name)
    settings = TINY[kind.config_class.model_type]
    torch.manual_seed(0)
    network = kind(kind.config_class(**settings, id2label=NAMES))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.02)
    network.save_pretrained(folder)
    return folder / "model.safetensors"


def logits(network: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return network.eval()(x).logits


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny("ViTForImageClassification", tmp_path_factory.mktemp("vit"))


@pytest.mark.parametrize("name", CLASSES)
def test_every_class_opens_as_its_library_computes_it_and_loads_there_again(name: str, tmp_path: Path):
    source = read_source(tiny(name, tmp_path))
    model = open_model(source)
    assert (model.architecture.name, model.architecture.how) == (f"transformers/{name}", "config.json")
    assert set(model.tensors) <= set(model.manifest.tensors)
    size = model.input.height or 64
    x = torch.randn(2, 3, size, size)
    theirs = getattr(transformers, name).from_pretrained(tmp_path)
    assert model.class_names == tuple(theirs.config.id2label.values())
    torch.testing.assert_close(model.network(x), logits(theirs, x), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(serve(source)(x), logits(theirs, x), rtol=1e-4, atol=1e-5)
    before = replace(model, network=deepcopy(model.network))
    with torch.no_grad():
        for parameter in model.named().values():
            parameter.mul_(1.01)
    written = write_edit(source, model.manifest, edit_of(before, model.network))
    (tmp_path / "model.safetensors").write_bytes(written[""])
    theirs = getattr(transformers, name).from_pretrained(tmp_path)
    torch.testing.assert_close(logits(theirs, x), model.network(x).detach(), rtol=1e-4, atol=1e-5)


def test_names_are_those_of_the_file(vit: Path):
    model = open_model(read_source(vit))
    assert "vit.encoder.layer.0.attention.attention.query.weight" in model.tensors
    assert model.head is not None
    assert model.head.weight == "classifier.weight"
    assert (model.input.height, model.input.width) == (32, 32)


def described(vit: Path, folder: Path, **changes: object) -> Path:
    content = json.loads((vit.parent / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps(content))
    (folder / "model.safetensors").write_bytes(vit.read_bytes())
    return folder / "model.safetensors"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"hidden_size": 4096}, "larger than the file"),
        ({"num_hidden_layers": 50_000}, "50000 layers"),
        ({"num_hidden_layers": 3}, "is missing|larger"),
        ({"num_hidden_layers": 1}, "belongs to no layer"),
        ({"image_size": 65_536, "patch_size": 1}, "patches"),
        ({"intermediate_size": 0}, "fit|built"),
        ({"num_attention_heads": 0}, "describes no|fit"),
        ({"hidden_act": "no_such"}, "built|describes no"),
        ({"id2label": {}, "num_labels": 1 << 40}, "number of classes"),
        ({"id2label": {"0": "a", "1": "b"}}, "fit"),
        ({"architectures": ["CLIPTextModel"]}, "CLIPTextModel"),
        ({"architectures": ["os.system"]}, "os.system"),
    ],
)
def test_a_description_that_does_not_fit_is_one_sentence(vit: Path, tmp_path: Path, changes: dict, said: str):
    with pytest.raises(Unsupported, match=said) as refusal:
        open_model(read_source(described(vit, tmp_path, **changes)))
    assert "\n" not in str(refusal.value)


def test_nothing_of_a_description_names_code_a_file_or_a_type(vit: Path, tmp_path: Path):
    (tmp_path / "evil.py").write_text("raise SystemExit('code of the folder was run')")
    model = open_model(
        read_source(
            described(
                vit, tmp_path, auto_map={"AutoModelForImageClassification": "evil.ViT"}, trust_remote_code=True,
                _attn_implementation="someone/kernel", attn_implementation="someone/kernel", dtype="float64",
                _name_or_path="/etc", __class__="x", quantization_config={"quant_method": "bitsandbytes"},
                hidden_dropout_prob="/etc/passwd", num_channels=[[3]],
            )
        )
    )  # fmt: skip
    config = model.network.network.config
    assert config._attn_implementation == "eager"
    assert config.hidden_dropout_prob == 0.0
    assert not hasattr(config, "quantization_config")
    assert not hasattr(config, "trust_remote_code")
    assert all(parameter.dtype == torch.float32 for parameter in model.network.parameters())
    assert any("auto_map" in note for note in model.notes)


def test_the_architecture_by_option_needs_the_description(vit: Path, tmp_path: Path):
    (tmp_path / "model.safetensors").write_bytes(vit.read_bytes())
    with pytest.raises(UnknownArchitecture):
        open_model(read_source(tmp_path / "model.safetensors"))
    assert inspect(read_source(vit)).kind == "safetensors"
