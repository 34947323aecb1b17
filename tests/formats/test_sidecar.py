"""Descriptions beside a model, in the spellings of timm and Hugging Face, and broken ones."""

import json

import pytest

from formats import Manifest, Source
from formats.sidecar import architecture_hint, class_names_hint, names_in, preprocessing_hint


def hints(metadata=None, **sidecars):
    files = {f"{name}.json": json.dumps(content).encode() for name, content in sidecars.items()}
    return Source("m", b"", sidecars=files), Manifest("safetensors", {}, metadata or {})


TIMM = {
    "architecture": "resnet50",
    "num_classes": 10,
    "pretrained_cfg": {
        "input_size": [3, 224, 224], "mean": [0.5, 0.4, 0.3], "std": [0.1, 0.2, 0.3], "interpolation": "bicubic",
        "crop_pct": 0.875,
    },
}  # fmt: skip


def test_timm():
    found = hints(config=TIMM)
    assert architecture_hint(*found) == ("timm/resnet50", "config.json")
    hint = preprocessing_hint(*found)
    assert (hint.mean, hint.std) == ((0.5, 0.4, 0.3), (0.1, 0.2, 0.3))
    assert (hint.size, hint.resize, hint.interpolation) == ((224, 224), 256, "bicubic")


def test_hugging_face():
    processor = {
        "image_mean": [0.5], "image_std": [0.5], "resample": 2, "do_center_crop": True,
        "size": {"shortest_edge": 256}, "crop_size": {"height": 224, "width": 224},
    }  # fmt: skip
    config = {"model_type": "resnet", "id2label": {"0": "cat", "1": "dog"}}
    found = hints(config=config, preprocessor_config=processor)
    hint = preprocessing_hint(*found)
    assert (hint.size, hint.resize, hint.interpolation) == ((224, 224), 256, "bilinear")
    assert hint.origin == "preprocessor_config.json"
    assert class_names_hint(*found, classes=2) == ("cat", "dog")
    assert class_names_hint(*found, classes=3) is None
    assert architecture_hint(*found) is None


def test_no_normalisation_leaves_0_to_1():
    told = {"image_mean": [0.5], "image_std": [0.5], "do_normalize": False, "size": 32}
    hint = preprocessing_hint(*hints(preprocessor_config=told))
    assert (hint.mean, hint.std, hint.size) == ((0.0,), (1.0,), (32, 32))


def test_metadata_of_the_file():
    found = hints({"mean": "[0.1, 0.2, 0.3]", "std": "[1, 1, 1]", "class_names": '["a", "b"]', "arch": "x"})
    assert preprocessing_hint(*found).mean == (0.1, 0.2, 0.3)
    assert class_names_hint(*found, classes=2) == ("a", "b")
    assert architecture_hint(*found) == ("x", "metadata")


@pytest.mark.parametrize(
    "told",
    [
        {"input_size": [3, 65535, 65535]},
        {"input_size": [3, 1025, 224]},
        {"size": 1 << 70, "crop_size": -5},
        {"size": {"height": 224, "width": 65535}},
        {"size": {"shortest_edge": True}},
        {"image_mean": [1e300] * 3, "image_std": [0.0]},
        {"mean": [float("nan")], "std": [float("inf")]},
        {"mean": [0.5] * 65, "std": [1e-5]},
        {"pretrained_cfg": {"input_size": [0, 0, 0], "std": [-1, 1, 1]}},
        {"id2label": {str(i): "x" * 201 for i in range(2)}, "architecture": "x" * 201},
    ],
)
def test_what_no_honest_description_says_is_passed_over(told):
    found = hints(config=told)
    assert preprocessing_hint(*found) is None
    assert architecture_hint(*found) is None
    assert class_names_hint(*found, classes=2) is None


def test_a_crop_and_an_interpolation_are_of_the_usual_kind():
    hint = preprocessing_hint(
        *hints(config={**TIMM["pretrained_cfg"], "crop_pct": 0.11, "interpolation": "x"})
    )
    assert (hint.size, hint.resize, hint.interpolation) == ((224, 224), None, None)
    hint = preprocessing_hint(
        *hints(config={"image_mean": [123.675], "image_std": [58.395], "resample": [2]})
    )
    assert (hint.mean, hint.std) == ((123.675 / 255,), (58.395 / 255,)), "of 0..255"
    assert hint.interpolation is None


def test_broken_descriptions_are_ignored():
    broken = {
        "a.json": b"{", "b.json": b"[1]", "c.json": b"[" * 200_000, "d.json": b'{"mean": ["x"], "size": true}',
        "e.json": b'{"pretrained_cfg": 3, "id2label": 4, "architecture": 5}', "f.json": b"\xff",
    }  # fmt: skip
    found = Source("m", b"", sidecars=broken), Manifest("safetensors", {})
    assert preprocessing_hint(*found) is None
    assert architecture_hint(*found) is None
    assert class_names_hint(*found, classes=1) is None


@pytest.mark.parametrize(
    "content",
    [
        "cat\ndog\n\n", "\ufeff0: cat\r\n1: dog\r\n", "0 cat\n1 dog", '["cat", "dog"]', '{"0": "cat", "1": "dog"}',
        '{"dog": 1, "cat": 0}', '{"id2label": {"0": "cat", "1": "dog"}}',
    ],
)  # fmt: skip
def test_files_of_class_names(content):
    assert names_in(content.encode(), 2) == ("cat", "dog")
    assert names_in(content.encode(), 3) is None
    source = Source("m", b"", sidecars={"labels.txt": content.encode()})
    assert class_names_hint(source, Manifest("onnx", {}), 2) == ("cat", "dog")


@pytest.mark.parametrize(
    "content",
    [
        b"\xff\xfe", b"", b"[1, 2]", b'{"cat": 0, "dog": 0}', b'{"cat": 0, "dog": 5}', b'["a", ""]', b"null",
        b"[" * 100_000, b"a\n" + b"x" * 300, b'{"cat": true, "dog": false}', b'{"id2label": 3}',
    ],
)  # fmt: skip
def test_what_is_no_file_of_class_names(content):
    assert names_in(content, 2) is None


def test_a_file_of_class_names_describes_nothing_else():
    source = Source(
        "m", b"", sidecars={"label_map.json": b'{"architecture": "timm/resnet18", "id2label": {}}'}
    )
    assert architecture_hint(source, Manifest("onnx", {})) is None
