"""Sorting nodes as onnxruntime does, and what cannot be sorted."""

import pytest

from formats.errors import Hostile, Unsupported
from formats.onnx.order import in_order


def nodes(text):
    return [tuple(side.split() for side in one.split(">")) for one in text.split(";")]


def test_nodes_stand_behind_what_they_read_and_else_where_they_stood():
    assert in_order(nodes("x w > a; a > b; b a > c"), ["x", "w"]) == [0, 1, 2]
    assert in_order(nodes("b > c; x > a; a > b; x > d"), ["x"]) == [1, 2, 0, 3]
    assert in_order([(["x", ""], ["a", ""]), (["a", "o"], ["", ""])], ["x"], {"o"}) == [0, 1]


def test_a_long_chain_backwards():
    chain = [([str(i)], [str(i + 1)]) for i in reversed(range(5_000))]
    assert in_order(chain, ["0"]) == list(reversed(range(5_000)))


def test_what_cannot_be_sorted():
    with pytest.raises(Unsupported, match="reads 'w', which nothing in it makes"):
        in_order(nodes("x w > a"), ["x"])
    with pytest.raises(Unsupported, match="circle"):
        in_order(nodes("x b > a; a > b"), ["x"])
    for text in ("x > a; x > a", "x > a a", "a > x"):
        with pytest.raises(Hostile) as caught:
            in_order(nodes(text), ["x", "a"] if text == "a > x" else ["x"])
        assert caught.value.rule == "WIPER-ONNX-003"
