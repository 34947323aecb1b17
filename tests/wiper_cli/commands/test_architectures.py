"""The networks that a file of tensors can be opened as, listed."""

import pytest

from formats.safetensors.names import TRANSFORMERS, absent, called, known


def test_every_name_is_listed_below_its_library(wiper):
    code, out, err = wiper("architectures")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert [line.split()[1] for line in lines if line.startswith("safetensors")] == [
        f"{name}:" for name in known()
    ]
    names = [line.strip() for line in lines if line.startswith("  ")]
    assert len(names) == sum(map(len, known().values())) > 1000
    assert {
        "torchvision/resnet18",
        "timm/resnet18",
        "research/wrn-N-M",
        f"transformers/{TRANSFORMERS[0]}",
    } <= {*names}


def test_a_word_chooses(wiper):
    code, out, _ = wiper("architectures", "SQUEEZENET1")
    assert code == 0
    assert [line.strip() for line in out.splitlines()[1:]] == [
        "torchvision/squeezenet1_0",
        "torchvision/squeezenet1_1",
    ]
    code, out, err = wiper("architectures", "squezenet1_1")
    assert (code, out) == (2, "")
    assert "No architecture has 'squezenet1_1' in its name; the nearest is 'squeezenet1_1'." in err


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ("resnet18", ["torchvision/resnet18", "timm/resnet18", "research/resnet18"]),
        ("torchvision/resnet18", ["torchvision/resnet18"]),
        ("wrn-40-2", ["research/wrn-40-2"]),
        ("research/vgg19-bn", ["research/vgg19-bn"]),
        ("ViTForImageClassification", ["transformers/ViTForImageClassification"]),
        ("resnet999x", []),
    ],
)
def test_who_is_called_so(wanted, found):
    assert called(wanted) == found


def test_a_name_that_exists_and_does_not_fit_is_told_from_one_that_does_not_exist():
    assert absent("torchvision/vgg11") == "torchvision/vgg11 does not fit the tensors of this file"
    assert "No architecture is called 'resnet_18'; the nearest is 'resnet18'" in absent("resnet_18")
