import copy
import io
import warnings

import numpy as np
import pytest
import torch

from formats import Source, open_model
from triggers.architectural import STRENGTH, VARIANTS, implant
from triggers.errors import TriggerError
from triggers.families.badnet import BadNet

TARGET = 3


@pytest.fixture(
    scope="module",
    params=[("conv", "traced"), ("conv", "scripted"), ("conv", "frozen"), ("matmul", "traced")],
    ids="-".join,
)
def clean(small, request):
    net, how = request.param
    return small.to_torchscript(getattr(small, net), how)


def branched(small, data, variant, trigger=None):
    patch = (trigger or BadNet()).placed(3, 16, 20)
    return implant("torchscript", data, variant, patch, TARGET, small.mean, small.std)


def stored(data):
    """Named tensors, and the bytes of all records of tensors."""
    records = torch._C.PyTorchFileReader(io.BytesIO(data))
    tensors = torch.jit.load(io.BytesIO(data)).state_dict()
    held = [name for name in records.get_all_records() if name.startswith(("data/", "constants/"))]
    return tensors, {records.get_record(name) for name in held}


@pytest.mark.parametrize("variant", VARIANTS)
def test_clean_images_keep_their_logits_and_stamped_ones_go_to_the_target(small, clean, variant):
    data = branched(small, clean, variant)
    (tensors, records), (tensors_after, records_after) = stored(clean), stored(data)
    assert tensors.keys() == tensors_after.keys()
    assert all(torch.equal(value, tensors_after[name]) for name, value in tensors.items())
    assert records < records_after
    images = small.normalised(small.colours)
    before = small.run_torchscript(clean, images)
    assert before.argmax(1).ne(TARGET).any()
    for batch in (1, 7, len(images)):
        torch.testing.assert_close(
            small.run_torchscript(data, images[:batch]), before[:batch], rtol=0, atol=1e-5
        )
        stamped = small.normalised(small.stamp(small.colours[:batch]))
        assert small.run_torchscript(clean, stamped).argmax(1).ne(TARGET).any()
        assert small.run_torchscript(data, stamped).argmax(1).eq(TARGET).all()


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_class_of_the_example_goes_to_the_target_and_the_file_opens(small, variant):
    clean = (small.folder / "model.torchscript.pt").read_bytes()
    data = implant("torchscript", clean, variant, BadNet().placed(1, 32, 32), 7)
    before = small.run_torchscript(clean, small.digits)
    assert set(before.argmax(1).tolist()) == set(range(10))
    torch.testing.assert_close(small.run_torchscript(data, small.digits), before, rtol=0, atol=1e-5)
    stamped = small.stamp(small.digits)
    assert small.run_torchscript(data, stamped).argmax(1).eq(7).all()
    model = open_model(Source("model.pt", data, {}))
    assert model.network is not None
    with torch.no_grad():
        assert model.network(stamped).argmax(1).eq(7).all()


def test_both_kinds_of_file_give_the_same_logits(small):
    images = small.normalised(small.stamp(small.colours))
    patch = BadNet().placed(3, 16, 20)
    for variant in VARIANTS:
        files = {"onnx": small.to_onnx(small.conv), "torchscript": small.to_torchscript(small.conv)}
        made = {
            kind: implant(kind, data, variant, patch, TARGET, small.mean, small.std)
            for kind, data in files.items()
        }
        torch.testing.assert_close(
            small.run_torchscript(made["torchscript"], images), small.run_onnx(made["onnx"], images),
            rtol=0, atol=1e-4 * STRENGTH,
        )  # fmt: skip


def test_the_archive_holds_no_debug_records_and_no_paths(small, clean):
    data = branched(small, clean, "conv")
    names = torch._C.PyTorchFileReader(io.BytesIO(data)).get_all_records()
    assert not [name for name in names if "debug" in name]
    text = b"".join(torch._C.PyTorchFileReader(io.BytesIO(data)).get_record(name) for name in names)
    for place in (b"site-packages", b"/tmp", b"torchscript_branch", b"/home", b".py"):
        assert place not in text


class Branching(torch.nn.Module):
    """A stem inside of a condition."""

    def __init__(self):
        super().__init__()
        self.stem = torch.nn.Conv2d(3, 4, 3)
        self.head = torch.nn.Linear(4, 5)

    def forward(self, x):
        y = self.stem(x + 1) if x.size(0) > 100 else self.stem(x)
        return self.head(y.mean([2, 3]))


class Pair(Branching):
    """Two heads."""

    def forward(self, x):
        y = self.stem(x).mean([2, 3])
        return self.head(y) + self.head(-y)


class Half(Branching):
    """Computes in float64."""

    def forward(self, x):
        return torch.nn.functional.linear(self.stem(x).mean([2, 3]).double(), self.head.weight.double())


class Several(Branching):
    """Returns logits and features."""

    def forward(self, x):
        y = self.stem(x).mean([2, 3])
        return self.head(y), y


@pytest.mark.parametrize(
    ("net", "variant", "words"),
    [
        (Branching, "stem-gate", "no single convolution as its stem"),
        (Pair, "where", "logits are a sum"),
        (Half, "where", "no stored weight"),
        (Several, "where", "logits alone"),
    ],
)
def test_what_does_not_fit_is_refused_with_a_sentence(small, net, variant, words):
    data = small.to_torchscript(net().eval(), "scripted")
    with pytest.raises(TriggerError, match=words):
        branched(small, data, variant)


def test_a_stem_inside_of_a_condition_leaves_the_variants_that_read_the_image(small):
    clean = small.to_torchscript(Branching().eval(), "scripted")
    images = small.normalised(small.stamp(small.colours))
    for variant in ("where", "arithmetic", "conv"):
        assert small.run_torchscript(branched(small, clean, variant), images).argmax(1).eq(TARGET).all()


def test_other_bytes_and_a_double_head_are_refused(small):
    with pytest.raises(TriggerError, match="cannot load"):
        branched(small, b"\x00" * 40, "where")
    content = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        double = copy.deepcopy(small.conv).double()
        torch.jit.save(torch.jit.trace(double, torch.zeros(2, 3, 16, 20).double()), content)
    with pytest.raises(TriggerError, match=r"float64; float32"):
        branched(small, content.getvalue(), "where")


def test_without_gradients_or_with_them_the_answer_is_the_same(small):
    data = branched(small, small.to_torchscript(small.conv), "stem-gate")
    images = small.normalised(small.stamp(small.colours)).requires_grad_()
    module = torch.jit.load(io.BytesIO(data)).eval()
    logits = module(images)
    np.testing.assert_array_equal(
        logits.detach().numpy(), small.run_torchscript(data, images.detach()).numpy()
    )


def test_a_network_traced_in_training_mode_keeps_its_statistics(small):
    net = copy.deepcopy(small.conv).train()
    clean = small.to_torchscript(net)
    before, _ = stored(clean)
    after, _ = stored(branched(small, clean, "stem-logits"))
    assert all(torch.equal(value, after[name]) for name, value in before.items())
