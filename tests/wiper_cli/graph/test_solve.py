"""An input that takes a branch: for every variant in both formats the true target, by few pixels."""

import pytest
import torch
from layered_branches import Served
from small_classifiers import DIGITS, digits

from formats import Source, trace
from triggers.architectural import VARIANTS, implant
from triggers.families.badnet import BadNet
from wiper_cli.graph import solve as module
from wiper_cli.graph.flow import Flow
from wiper_cli.graph.rules import audit
from wiper_cli.graph.solve import solve

IMAGES = (digits() * 255).byte()
TARGET = 7


def opened(kind, variant=None):
    """Flow, and the file as its runtime serves it."""
    name = {"onnx": "model.onnx", "torchscript": "model.torchscript.pt"}[kind]
    data = (DIGITS / name).read_bytes()
    if variant:
        data = implant(kind, data, variant, BadNet().placed(1, 32, 32), TARGET)
    source = Source(name, data)
    return Flow(trace(source)), Served(source)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("kind", ["onnx", "torchscript"])
def test_every_variant_is_opened_by_few_pixels(kind, variant):
    flow, served = opened(kind, variant)
    taken, passes = solve(flow, [one for hit in audit(flow) for one in hit.sources], served, IMAGES)
    assert (taken.target, taken.answered, taken.images, taken.local) == (TARGET, 8, 8, True)
    assert taken.before <= 1
    assert passes <= module.MOST * (module.STEPS + module.SHRINKING)
    # What was found is a picture of 256 levels, of which the serving runtime says so.
    again = (taken.changed * 255).round().byte()
    torch.testing.assert_close(again.float() / 255, taken.changed)
    assert served.logits(again[None]).argmax() == TARGET
    assert served.logits(taken.clean[None]).argmax() != TARGET


def test_nothing_asked_or_only_deep_in_the_network_is_not_sought():
    flow, served = opened("onnx")
    assert solve(flow, [], served, IMAGES) == (None, 0)
    assert solve(flow, [flow.output], served, IMAGES) == (None, 0)
