import copy
import io

import pytest
import torch
from small_classifiers import CONV, TARGET, branched, run, stamped, to_torchscript

from triggers.errors import TriggerError


@pytest.mark.parametrize("how", ["traced", "scripted", "frozen"])
def test_the_archive_holds_no_debug_records_and_no_paths(how):
    data = branched("torchscript", to_torchscript(CONV, how), "conv")
    names = torch._C.PyTorchFileReader(io.BytesIO(data)).get_all_records()
    assert not [name for name in names if "debug" in name]
    text = b"".join(torch._C.PyTorchFileReader(io.BytesIO(data)).get_record(name) for name in names)
    for place in (b"site-packages", b"/tmp", b"torchscript_branch", b"/home", b".py"):
        assert place not in text


class Branching(torch.nn.Module):
    """A stem inside of a condition."""

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.stem, self.head = torch.nn.Conv2d(3, 4, 3), torch.nn.Linear(4, 5)

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
def test_what_does_not_fit_is_refused_with_a_sentence(net, variant, words):
    data = to_torchscript(net().eval(), "scripted")
    with pytest.raises(TriggerError, match=words):
        branched("torchscript", data, variant)


def test_a_stem_inside_of_a_condition_leaves_the_variants_that_read_the_image():
    clean = to_torchscript(Branching().eval(), "scripted")
    for variant in ("where", "arithmetic", "conv"):
        data = branched("torchscript", clean, variant)
        assert run("torchscript", data, stamped()).argmax(1).eq(TARGET).all()


def test_other_bytes_and_a_double_head_are_refused():
    with pytest.raises(TriggerError, match="cannot load"):
        branched("torchscript", b"\x00" * 40, "where")
    with pytest.raises(TriggerError, match=r"float64; float32"):
        branched("torchscript", to_torchscript(copy.deepcopy(CONV).double(), "scripted"), "where")


def test_without_gradients_or_with_them_the_answer_is_the_same():
    data = branched("torchscript", to_torchscript(CONV), "stem-gate")
    logits = torch.jit.load(io.BytesIO(data)).eval()(stamped().requires_grad_())
    assert torch.equal(logits.detach(), run("torchscript", data, stamped()))


def test_a_network_traced_in_training_mode_keeps_its_statistics():
    net = copy.deepcopy(CONV).train()
    clean = to_torchscript(net)
    after = torch.jit.load(io.BytesIO(branched("torchscript", clean, "stem-logits"))).state_dict()
    before = torch.jit.load(io.BytesIO(clean)).state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
