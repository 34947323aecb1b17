from collections import namedtuple

import pytest
import torch

from formats import Ambiguous, Unsupported
from formats.torchscript.network import batched, logits_of


def test_logits_of_several_outputs():
    logits, other = torch.ones(2, 5), torch.zeros(2, 7)
    named = namedtuple("named", ["aux", "logits"])
    assert logits_of(logits, 2) is logits
    assert logits_of((logits, other), 2, "0") is logits
    with pytest.raises(Ambiguous, match="2 outputs"):
        logits_of((logits, other), 2)
    assert logits_of({"aux_logits": other, "logits": logits}, 2) is logits
    assert logits_of({"aux": None, "map": torch.ones(2, 5, 4, 4), "any": logits}, 2) is logits
    assert logits_of(named(other, logits), 2) is logits
    assert logits_of({"aux": other, "logits": logits}, 2) is logits
    assert logits_of({"aux": other, "out": logits}, 2) is logits
    assert logits_of(torch.ones(2, 5, 1, 1), 2).shape == (2, 5)
    assert logits_of(torch.ones(2), 2).shape == (2, 1)  # one logit, its axis squeezed away
    assert logits_of(torch.ones(5), 1).shape == (1, 5)


@pytest.mark.parametrize("output", [torch.ones(2, 5, 4, 4), torch.ones(3), (), {}, None, "text"])
def test_no_logits(output):
    with pytest.raises(Unsupported, match=r"\[N, K\]"):
        logits_of(output, 2)


@pytest.mark.parametrize("n", [1, 3, 4, 6, 7])
def test_batches_are_filled_and_cut(n):
    sizes = []

    def run(x):
        sizes.append(len(x))
        return x * 2

    x = torch.arange(n * 2.0).view(n, 2)
    assert torch.equal(batched(run, x, 3), x * 2)
    assert set(sizes) == {3}
