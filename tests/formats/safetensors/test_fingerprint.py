"""Fingerprints: what enters them, and that the shipped index is what its script makes."""

import pytest

from formats.safetensors.fingerprint import fingerprint, load_index, look_up
from formats.safetensors.make_index import CLASSES, OnMeta
from formats.safetensors.torchvision_stub import import_torchvision

SHAPES = {"a.weight": (2, 3), "fc.weight": (10, 2), "fc.bias": (10,), "bn.num_batches_tracked": ()}


def test_classes_counters_and_order_do_not_enter():
    digest = fingerprint(SHAPES, ("fc.weight", "fc.bias"))
    other = {"fc.bias": (7,), "fc.weight": (7, 2), "a.weight": (2, 3)}
    assert fingerprint(other, ("fc.weight", "fc.bias")) == digest
    assert len(digest) == 16


@pytest.mark.parametrize(
    "change", [{"bn.num_batches_tracked": (2,)}, {"a.weight": (3, 2)}, {"a.weight_": (2, 3)}, {"b": (1,)}]
)
def test_names_and_shapes_enter(change):
    head = ("fc.weight", "fc.bias")
    assert fingerprint({**SHAPES, **change}, head) != fingerprint(SHAPES, head)


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "regnet_y_400mf"])
def test_index_is_what_the_script_makes(name):
    models = import_torchvision().models
    with OnMeta():
        state = models.get_model(name, num_classes=CLASSES).state_dict()
    assert all(value.is_meta for key, value in state.items() if key.endswith("weight"))
    shapes = {key: tuple(value.shape) for key, value in state.items()}
    index = load_index("torchvision")
    model = next(model for model in index["models"] if model["name"] == name)
    assert fingerprint(shapes, tuple(index["heads"][model["head"]])) == model["digest"]
    found = look_up(shapes)[0]
    assert (found.library, found.name, found.classes) == ("torchvision", name, CLASSES)


def test_heads_that_disagree_on_the_classes_fit_nothing():
    models = import_torchvision().models
    with OnMeta():
        shapes = {k: tuple(v.shape) for k, v in models.mobilenet_v2(num_classes=CLASSES).state_dict().items()}
    shapes["classifier.1.bias"] = (CLASSES + 1,)
    assert look_up(shapes) == []
    assert look_up({}) == []
