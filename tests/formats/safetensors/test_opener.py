"""Choosing an architecture: option, file, sidecar, metadata, fingerprint; and what is refused."""

import json

import pytest
import torch
from safetensors.torch import save
from torch import nn

from formats import Source, UnknownArchitecture, Unsupported, open_model, serve
from formats.safetensors.architectures import choose, load_state, matches, without_wrappers
from formats.safetensors.fingerprint import LIBRARIES, load_index
from formats.safetensors.manifest import read_manifest
from formats.safetensors.torchvision_stub import import_torchvision

SMALL = "squeezenet1_1"


@pytest.fixture(scope="module")
def models():
    return import_torchvision().models


def source_of(net, metadata=None, **sidecars):
    data = save({name: value.clone() for name, value in net.state_dict().items()}, metadata)
    files = {f"{name}.json": json.dumps(content).encode() for name, content in sidecars.items()}
    return Source("m.safetensors", data, sidecars=files)


def chosen(source, arch=None):
    return choose(source, read_manifest(source), arch)


@pytest.mark.parametrize("name", ["mobilenet_v3_small", "shufflenet_v2_x0_5", "mnasnet0_5"])
def test_torchvision_by_fingerprint(models, name):
    torch.manual_seed(0)
    network = models.get_model(name, weights=None, num_classes=6).eval()
    source = source_of(network)
    model = open_model(source)
    assert (model.architecture.name, model.architecture.how) == (f"torchvision/{name}", "fingerprint")
    assert model.classes == 6
    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(model.network(x), network(x))
        torch.testing.assert_close(serve(source, model.architecture.name)(x), network(x))


def test_auxiliary_heads_are_no_tensors_of_the_network(models):
    network = models.googlenet(num_classes=6, init_weights=False)
    model = open_model(source_of(network))
    assert model.head.weight == "fc.weight"
    assert not any(name.startswith("aux") for name in model.tensors)
    assert "aux1.fc2.weight" in model.manifest.tensors


def test_building_leaves_the_random_state_alone(models):
    source = source_of(models.get_model(SMALL, num_classes=5))
    before = torch.get_rng_state()
    chosen(source)
    assert torch.equal(before, torch.get_rng_state())


def test_index_knows_every_torchvision_classifier_and_tells_them_apart(models):
    index = load_index("torchvision")
    names = {model["name"] for model in index["models"]}
    assert set(models.list_models(module=models)) <= names
    assert len({model["digest"] for model in index["models"]}) == len(index["models"])


@pytest.mark.parametrize("library", LIBRARIES)
def test_index_of_the_installed_library_is_current(library):
    import_torchvision()
    module = pytest.importorskip(library)
    index = load_index(library)
    if module.__version__.split("+")[0] != index["version"]:
        pytest.skip(f"index is of {index['version']}")
    assert len(index["models"]) > 80


def test_timm_by_fingerprint_and_by_its_config():
    import_torchvision()
    timm = pytest.importorskip("timm")
    network = timm.create_model("test_vit", num_classes=4)
    plain = open_model(source_of(network))
    assert plain.architecture.name == "timm/test_vit"
    assert plain.preprocessing is None
    assert plain.input.height is None
    config = {
        "architecture": "test_vit",
        "pretrained_cfg": {"mean": [0.5], "std": [0.25], "input_size": [3, 160, 160]},
    }
    model = open_model(source_of(network, config=config))
    assert model.architecture.how == "config.json"
    assert (model.preprocessing.mean, model.preprocessing.size) == ((0.5,), (160, 160))


def test_ambiguous_shapes_name_all_candidates(models):
    model = chosen(source_of(models.resnet18(num_classes=3)))
    assert model.architecture.candidates == ("torchvision/resnet18", "timm/resnetblur18")
    assert "accuracy" in model.notes[0]


def test_option_settles_the_ambiguity(models):
    source = source_of(models.resnet18(num_classes=3))
    pytest.importorskip("timm")
    assert chosen(source, "resnetblur18").architecture.name == "timm/resnetblur18"
    assert chosen(source, "torchvision/resnet18").architecture.candidates == ()


def test_metadata_and_sidecar_name_the_architecture(models):
    network = models.get_model(SMALL, num_classes=5)
    assert chosen(source_of(network, {"arch": SMALL})).architecture.how == "metadata"
    assert chosen(source_of(network, m={"architecture": SMALL})).architecture.how == "m.json"
    unknown = chosen(source_of(network, m={"architecture": "nonsense"}))
    assert unknown.architecture.how == "fingerprint"
    assert "nonsense" in unknown.notes[0]


def test_renamed_tensors_fit_nothing(models):
    state = {f"x{name}": value for name, value in models.get_model(SMALL).state_dict().items()}
    with pytest.raises(UnknownArchitecture, match="--arch"):
        chosen(Source("m", save(state)))


def test_wrong_name_lists_what_fits(models):
    source = source_of(models.get_model(SMALL, num_classes=5))
    with pytest.raises(UnknownArchitecture, match="squeezenet1_1") as refusal:
        chosen(source, "resnet999")
    assert refusal.value.candidates == ("torchvision/squeezenet1_1",)
    with pytest.raises(
        UnknownArchitecture, match=r"^torchvision/resnet18 does not fit .* these fit: torchvision/squee"
    ):
        chosen(source, "torchvision/resnet18")


def test_known_name_that_does_not_fit_says_where(models):
    source = source_of(models.resnet18(num_classes=3))
    with pytest.raises(UnknownArchitecture, match="has shape"):
        open_model(source, arch="resnet50")


def network():
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)
    )


def wrapped():
    return nn.ModuleDict({"model": network()})


def broken():
    raise KeyError("oops")


number = int


def test_factory_in_a_file():
    model = open_model(source_of(network()), arch=f"{__file__}:network")
    assert model.head.weight == "4.weight"
    assert model.input.channels == 1
    assert any("was run" in note for note in model.notes)


@pytest.mark.parametrize(
    ("arch", "words"),
    [
        (f"{__file__}:broken", "oops"),
        (f"{__file__}:missing", "AttributeError"),
        (f"{__file__}:number", "not a torch.nn.Module"),
        ("nowhere.py:network", "does not exist"),
    ],
)
def test_factory_that_fails(arch, words):
    with pytest.raises(Unsupported, match=words):
        open_model(source_of(network()), arch=arch)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_compute_in_float32(dtype):
    model = open_model(source_of(network().to(dtype)), arch=f"{__file__}:network")
    assert next(model.network.parameters()).dtype == torch.float32
    assert any("rounded once" in note for note in model.notes)


def test_wrappers_are_seen_through_only_when_all_share_them():
    both = {"module.model.a": torch.ones(1), "module.model.b": torch.ones(2)}
    found = without_wrappers(read_manifest(Source("m", save(both))))
    assert list(found) == ["", "module.", "module.model."]
    assert found["module.model."] == {"a": (1,), "b": (2,)}
    one = {"module.a": torch.ones(1), "b": torch.ones(2)}
    assert list(without_wrappers(read_manifest(Source("m", save(one))))) == [""]
    assert matches({"a": (1,)}) == []


def test_a_factory_may_have_the_wrapper_itself():
    state = {f"module.model.{name}": value for name, value in network().state_dict().items()}
    choice = chosen(Source("m", save(state)), f"{__file__}:wrapped")
    assert {name.removeprefix("module.") for name in choice.names} == {*choice.names.values()}
    load_state(choice, state)
    assert torch.equal(choice.network["model"][4].weight, state["module.model.4.weight"])
