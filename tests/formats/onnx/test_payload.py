"""One payload a tensor, of its type and size: what is read is what onnx reads."""

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from formats.dtypes import DTYPES
from formats.errors import Hostile, Unsupported
from formats.onnx.messages import parse
from formats.onnx.payload import address_of, few_numbers, shape_of

TYPES = dict(TensorProto.DataType.items())


def read(tensor):
    """The tensor in a model, as the gate sees it, and the bytes of that model."""
    model = helper.make_model(helper.make_graph([], "g", [], [], [tensor]))
    data = model.SerializeToString()
    return parse(data)["graph"]["initializer"][0], data


def stored(kind, **fields):
    return TensorProto(name="t", data_type=TYPES[kind], **fields)


@pytest.mark.parametrize("raw", [False, True])
@pytest.mark.parametrize("kind", [name for name in TYPES if name not in ("UNDEFINED", "STRING")])
def test_every_type_as_onnx_writes_it(kind, raw):
    values = np.array([[1, 0, 1], [0, 1, 1]], np.float32).astype(helper.tensor_dtype_to_np_dtype(TYPES[kind]))
    tensor = numpy_helper.from_array(values, "t")
    if not raw:
        tensor = helper.make_tensor("t", TYPES[kind], [2, 3], values.reshape(-1))
    assert tensor.HasField("raw_data") == raw
    message, data = read(tensor)
    address = address_of(message)
    known = {one.onnx: name for name, one in DTYPES.items()}
    assert (address.dtype if address else None) == known.get(TYPES[kind])
    if address and address.writable:
        assert data[address.offset : address.offset + address.length] == values.tobytes()
    numbers = few_numbers(message, data)
    if numbers is not None:
        assert np.array_equal(np.array(numbers), values.astype(np.float64).reshape(-1))
    assert numbers is not None or kind not in ("FLOAT", "INT64", "INT32", "DOUBLE", "UINT64")


#: (tensor, rule).
MISFITS = [
    (stored("FLOAT", dims=[2], raw_data=b"\0" * 4), "005"),
    (stored("FLOAT", dims=[2]), "005"),
    (stored("FLOAT", dims=[2], double_data=[1, 2]), "005"),  # onnx would take it for empty
    (stored("INT64", dims=[2], int32_data=[1, 2]), "005"),
    (stored("STRING", dims=[2], raw_data=b"ab"), "005"),
    (stored("STRING", dims=[2], string_data=[b"a"]), "005"),
    (stored("INT4", dims=[3], int32_data=[1, 2, 3]), "005"),  # two lie in each number
    (stored("FLOAT", dims=[0, -1]), "005"),
    (stored("FLOAT", dims=[0, 2**62]), "005"),
    (stored("FLOAT", dims=[2**39, 2**39]), "005"),
    (stored("FLOAT", dims=[1] * 65, raw_data=b"\0" * 4), "005"),
    (stored("FLOAT", dims=[1], raw_data=b"\0" * 4, float_data=[0]), "006"),
    (stored("FLOAT", dims=[1], raw_data=b"", float_data=[0]), "006"),  # onnx takes the empty one
    (stored("FLOAT", dims=[1], raw_data=b"\0" * 4, data_location=TensorProto.EXTERNAL), "007"),
    (stored("FLOAT", dims=[1], external_data=[{"key": "location", "value": "a.data"}]), "007"),
    (
        stored("FLOAT", dims=[1], raw_data=b"\0" * 4, data_location=TensorProto.EXTERNAL,
               external_data=[{"key": "location", "value": "a.data"}]),
        "006",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("tensor", "rule"), MISFITS)
def test_payloads_that_do_not_fit(tensor, rule):
    with pytest.raises(Hostile) as caught:
        address_of(read(tensor)[0])
    assert caught.value.rule == f"WIPER-ONNX-{rule}"


@pytest.mark.parametrize(
    ("tensor", "words"),
    [
        (TensorProto(name="t", data_type=99, dims=[1], raw_data=b"\0"), "of type 99"),
        (stored("FLOAT", dims=[4], raw_data=b"\0" * 16, segment={"begin": 0, "end": 4}), "segments"),
    ],
)
def test_what_no_runtime_reads(tensor, words):
    with pytest.raises(Unsupported, match=words):
        address_of(read(tensor)[0])


def test_numbers_that_are_not_packed_are_refused():
    plain = b"\x08\x02\x10\x01\x25\0\0\x80\x3f\x25\0\0\x80\x3f"  # dims 2, float, 1.0 twice
    assert np.array_equal(numpy_helper.to_array(TensorProto.FromString(plain)), [1, 1])
    graph = b"\x2a" + bytes([len(plain)]) + plain
    with pytest.raises(Unsupported, match="number by number"):
        address_of(parse(b"\x3a" + bytes([len(graph)]) + graph)["graph"]["initializer"][0])


def test_shapes_and_few_numbers():
    assert shape_of(read(stored("FLOAT", dims=[0, 5]))[0]) == (0, 5)
    assert address_of(read(stored("FLOAT", dims=[0, 5]))[0]).length == 0
    many, data = read(numpy_helper.from_array(np.arange(129), "t"))
    assert few_numbers(many, data) is None
    negative, data = read(helper.make_tensor("t", TensorProto.INT64, [3], [-1, 2**40, 0]))
    assert few_numbers(negative, data) == (-1, 2**40, 0)
    assert few_numbers(*read(stored("FLOAT16", dims=[1], int32_data=[15360]))) is None
