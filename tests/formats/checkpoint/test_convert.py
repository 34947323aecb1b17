import argparse
import collections
import enum
import io
import pickle
import random
import struct
from collections import Counter
from datetime import UTC, datetime
from functools import partial
from pathlib import PurePosixPath

import numpy as np
import pytest
import torch
from safetensors.torch import load

from formats import Hostile, Unreadable, Unsupported
from formats.checkpoint.convert import convert


def saved(value, **options):
    buffer = io.BytesIO()
    torch.save(value, buffer, **options)
    return buffer.getvalue()


def network():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return torch.nn.Sequential(
            torch.nn.Conv2d(3, 6, 3), torch.nn.BatchNorm2d(6), torch.nn.Flatten(), torch.nn.Linear(6, 4)
        )


def same(found, wanted):
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        assert found[name].dtype == value.dtype
        assert torch.equal(found[name], value), name


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    ("wrapped", "place", "left"),
    [
        (lambda state: state, "", ()),
        (lambda state: {"epoch": 3, "state_dict": state, "lr": 0.1}, "state_dict", ("epoch", "lr")),
        (lambda state: {"model": {"state_dict": state, "arch": "x"}}, "model.state_dict", ("model.arch",)),
        (
            lambda state: {"net": {f"module.{k}": v for k, v in state.items()}, "acc": 0.9},
            "net",
            ("acc", "the prefix 'module.' of every name"),
        ),
        (
            lambda state: {f"_orig_mod.module.{k}": v for k, v in state.items()},
            "",
            ("the prefix '_orig_mod.module.' of every name",),
        ),
    ],
)  # fmt: skip
def test_the_tensors_of_a_network_and_what_was_left_out(wrapped, place, left, zipped):
    state = network().state_dict()
    found = convert(saved(wrapped(state), _use_new_zipfile_serialization=zipped))
    same(load(found.data), dict(state))
    assert (found.place, found.left_out, found.tensors) == (place, left, len(state))
    assert found.called == ()


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_pickle_protocol(protocol):
    state = network().state_dict()
    same(load(convert(saved({"state_dict": state}, pickle_protocol=protocol)).data), dict(state))


@pytest.mark.parametrize("zipped", [True, False])
def test_a_network_that_was_pickled_whole(zipped):
    net = network()
    net.register_buffer("passing", torch.ones(3), persistent=False)
    found = convert(saved(net, _use_new_zipfile_serialization=zipped))
    same(load(found.data), dict(net.state_dict()))
    assert "torch.nn.modules.container.Sequential" in found.called


def test_other_objects_are_named_and_not_made():
    options = argparse.Namespace(lr=0.1)
    found = convert(saved({"args": options, "state_dict": network().state_dict()}))
    assert "argparse.Namespace" in found.called
    assert found.left_out == ("args",)


@pytest.mark.parametrize("zipped", [True, False])
def test_views_are_written_row_by_row(zipped):
    base = torch.arange(120, dtype=torch.float32).reshape(2, 3, 4, 5)
    state = {
        "last": base.contiguous(memory_format=torch.channels_last),
        "turned": base.permute(3, 1, 0, 2),
        "part": base[1, :, 1:3, ::2],
        "spread": torch.arange(3).expand(5, 3),
        "same": torch.tensor(7.0).expand(4),
        "tied": base,
        "half": base.half().transpose(0, 2),
        "brain": base.bfloat16().transpose(1, 2),
        "complex": torch.view_as_complex(base[..., :2].contiguous()).transpose(0, 1),
        "yes": torch.tensor([[True, False], [False, False]]).T,
        "none": torch.zeros(0, 3),
        "one": torch.tensor(3, dtype=torch.int8),
    }
    same(load(convert(saved(state, _use_new_zipfile_serialization=zipped)).data), state)


@pytest.mark.parametrize(
    "dtype", [torch.uint16, torch.uint32, torch.uint64, torch.float8_e4m3fn, torch.float8_e5m2]
)
def test_dtypes_without_a_storage_of_their_own(dtype):
    state = {"x": torch.arange(6).to(dtype).reshape(2, 3)}
    found = load(convert(saved(state)).data)["x"]
    assert found.dtype == dtype
    assert torch.equal(found.view(torch.uint8), state["x"].view(torch.uint8))


def test_the_key_decides():
    state, average = network().state_dict(), network().state_dict()
    for value in average.values():
        value += 1
    data = saved({"state_dict": state, "ema": {"shadow": average}})
    same(load(convert(data, "ema.shadow").data), dict(average))
    with pytest.raises(Unsupported, match="no tensors under 'shadow'"):
        convert(data, "shadow")


def test_an_unusual_place_is_named():
    with pytest.raises(Unsupported, match=r"under 'generator', 'judge': use --key"):
        convert(saved({"generator": network().state_dict(), "judge": network().state_dict()}))


class Calls:
    def __init__(self, function, *arguments):
        self.made = function, arguments

    def __reduce__(self):
        return self.made


HARM = {
    "system": Calls(__import__("os").system, "true"),
    "popen": Calls(__import__("subprocess").Popen, ["true"]),
    "eval": Calls(eval, "1"),
    "open": Calls(open, "/tmp/x", "w"),
    "getattr": Calls(getattr, "x", "y"),
    "import": Calls(__import__, "os"),
    "load": Calls(torch.load, "x"),
    "runpy": Calls(__import__("runpy").run_path, "x.py"),
    "from_bytes": Calls(torch.storage._load_from_bytes, b"x"),
}


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("harm", HARM.values(), ids=HARM)
def test_what_would_do_harm_is_refused_wherever_it_stands(harm, zipped):
    for value in (harm, {"state_dict": network().state_dict(), "x": [harm]}):
        with pytest.raises(Hostile) as refusal:
            convert(saved(value, _use_new_zipfile_serialization=zipped))
        assert refusal.value.rule == "WIPER-PKL-001"


class Made:
    """A class of somebody's, made without a call."""


class Colour(enum.Enum):
    RED = 1


def behind(call):
    """A checkpoint that does something before anything else and forgets what that gave."""
    file = saved(network().state_dict(), _use_new_zipfile_serialization=False)
    begin = file.index(b"ccollections")
    return file[:begin] + call + file[begin:]


@pytest.mark.parametrize("zipped", [True, False])
def test_what_checkpoints_call_is_known(zipped):
    value = {
        "state_dict": {**network().state_dict(), "p": torch.nn.Parameter(torch.ones(2))},
        "sparse": torch.ones(2, 2).to_sparse(),
        "net": network(), "optimizer": torch.optim.Adam(network().parameters()), "options": argparse.Namespace(lr=1),
        "best": np.float64(0.5), "history": np.arange(3.0), "random": np.random.RandomState(0),
        "generator": np.random.default_rng(0), "path": PurePosixPath("/a"), "when": datetime.now(UTC),
        "classes": {"a"}, "counts": Counter("ab"), "size": torch.Size([1]), "device": torch.device("cpu"),
        "layer": partial(torch.nn.LayerNorm, eps=1e-6), "made": Made(), "bytes": b"x",
    }  # fmt: skip
    for protocol in (2, 4):
        file = saved(value, pickle_protocol=protocol, _use_new_zipfile_serialization=zipped)
        found = convert(file, key="state_dict")
        assert (found.unknown, found.strange) == ((), ())


UNKNOWN = {
    "numpy.f2py.crackfortran.myeval": "1",
    "torch.fx.graph_module._exec_with_source": "pass",
    "shelve.open": "/tmp/x",
    "logging.FileHandler": "/tmp/x",
    "torch.save": "x",
    "torch.hub.download_url_to_file": "http://x",
    "sqlite3.connect": "/tmp/x",
    "somebody.function": "x",
}


@pytest.mark.parametrize("instruction", ["reduce", "obj", "inst", "typed"])
@pytest.mark.parametrize(("name", "argument"), UNKNOWN.items(), ids=UNKNOWN)
def test_a_call_of_what_is_not_known_to_be_harmless_is_told(name, argument, instruction):
    named = " ".join(name.rsplit(".", 1)).replace(" ", "\n").encode() + b"\n"
    text = b"X" + len(argument).to_bytes(4, "little") + argument.encode()
    call = {
        "reduce": b"c" + named + b"(" + text + b"tR0",
        "obj": b"(c" + named + text + b"o0",
        "inst": b"(" + text + b"i" + named + b"0",
        "typed": b"ctorch._tensor\n_rebuild_from_type_v2\n(c" + named + b"c" + named + b"(" + text + b"tNtR0",
    }[instruction]
    found = convert(behind(call))
    assert found.unknown == ("torch._tensor._rebuild_from_type_v2" if instruction == "typed" else name,)
    same(load(found.data), dict(network().state_dict()))


#: What torch.load imports and does not call; two of them open a browser and a window.
NAMED = [
    "antigravity.fly_geo", "this.s", "idlelib.__main__.x", "torch.utils.bottleneck.__main__.main", "payload.x",
    "torchvision.__main__.x", "shelve.open",
]  # fmt: skip


def globals_of(name, how):
    module, _, what = name.rpartition(".")
    if how == "global":
        return f"c{module}\n{what}\n0".encode()
    words = [b"X" + len(word).to_bytes(4, "little") + word.encode() for word in (module, what)]
    return b"".join(words) + b"\x930"


@pytest.mark.parametrize("how", ["global", "stack global"])
@pytest.mark.parametrize("name", NAMED)
def test_a_module_that_is_only_named_is_told(name, how):
    found = convert(behind(globals_of(name, how)))
    assert (found.strange, found.unknown) == ((name,), ())
    assert name in found.named


def test_an_argument_that_is_only_named_is_told():
    found = convert(behind(b"cfunctools\npartial\n(cshelve\nopen\ntR0"))
    assert (found.strange, found.unknown) == (("shelve.open",), ())


def test_names_in_honest_checkpoints_are_no_finding():
    """Callbacks by class, as Lightning wrote them; functions and dtypes of networks that were pickled whole."""
    names = [
        "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint", "torch.nn.functional.relu", "torch.float16",
        "torchvision.ops.misc.FrozenBatchNorm2d", "timm.layers.norm_act.BatchNormAct2d", "__main__.Settings",
        "collections.OrderedDict", "numpy.float32",
    ]  # fmt: skip
    found = convert(behind(b"".join(globals_of(name, "global") for name in names)))
    assert (found.strange, found.unknown) == ((), ())
    shown = ("pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint", "torch.nn.functional.relu")
    assert set(shown) <= set(found.named)
    assert "torch.float16" not in found.named
    assert "torch.FloatStorage" not in found.named


def test_a_package_of_which_something_is_made_is_imported_anyway():
    made, other = b"csomebody.net\nNet\n)\x810", globals_of("somebody.layers.act", "global")
    assert convert(behind(made + other)).strange == ()
    assert convert(behind(other)).strange == ("somebody.layers.act",)
    assert convert(behind(b"ccollections\nOrderedDict\n)R0" + globals_of("this.s", "global"))).strange == (
        "this.s",
    )


def test_what_is_made_by_a_class_that_opens_files_is_told():
    assert convert(behind(b"cnumpy\nmemmap\n(X\x06\0\0\0/tmp/xt\x810")).unknown == ("numpy.memmap",)


def test_what_other_libraries_call_is_told():
    found = convert(saved({"state_dict": network().state_dict(), "x": Colour.RED}))
    assert found.unknown == (f"{__name__}.Colour",)


def test_a_walk_through_an_honest_module_is_refused():
    raw = b"\x80\x04\x8c\x05torch\x8c\x09os.system\x93\x8c\x04true\x85R."
    with pytest.raises(Hostile):
        convert(raw)


def test_a_storage_that_is_too_short_is_refused():
    data = saved({"x": torch.arange(10.0)}, _use_new_zipfile_serialization=False)
    with pytest.raises(Unreadable, match="ends before its tensors"):
        convert(data[:-4])
    longer = data.replace(struct.pack("<B", 10) + b"\x85", struct.pack("<B", 200) + b"\x85")
    assert longer != data
    with pytest.raises(Unreadable, match="damaged pickle"):
        convert(longer)


def test_a_tensor_that_repeats_its_storage_is_refused():
    with pytest.raises(Unsupported, match="much larger file"):
        convert(saved({"x": torch.zeros(1).expand(1 << 30)}))


@pytest.mark.parametrize("value", [{}, {"state_dict": {}}, [1, 2], None, {"lr": 0.1}])
def test_no_tensors(value):
    with pytest.raises(Unsupported, match="no tensors"):
        convert(saved(value))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "no checkpoint"),
        (b"cposix\nsystem\n(U\x01xtR.", "may still take it for a pickle and run"),
        (b"\x80\x02.", "damaged pickle"),
        (b"\x80\x02I0x1F\n0cposix\nsystem\n(U\x01xtR.", "Python may run what this reader cannot follow"),
        (pickle.dumps({"a": 1}), "torch.save did not write"),
        (b"\x80\x04" + b"]" * 10, "pickle"),
        (b"PK\x03\x04", "."),
    ],
)
def test_other_files(data, words):
    with pytest.raises((Unsupported, Unreadable), match=words):
        convert(data)


def test_every_damage_is_refused_or_read():
    """No other exception leaves the reader, whatever the bytes."""
    dice = random.Random(0)
    outcomes = collections.Counter()
    for data in (saved(network().state_dict()), saved(network(), _use_new_zipfile_serialization=False)):
        for _ in range(500):
            damaged = bytearray(data)
            for _ in range(dice.randint(1, 3)):
                damaged[dice.randrange(len(damaged))] = dice.randrange(256)
            try:
                load(convert(bytes(damaged)).data)
                outcomes["read"] += 1
            except (Hostile, Unreadable, Unsupported):
                outcomes["refused"] += 1
    assert min(outcomes.values()) > 20, outcomes


def test_wrappers_without_end_are_taken_off_at_once():
    found = convert(saved({"module." * 200_000 + "x": torch.ones(2)}))
    assert load(found.data).keys() == {"x"}
