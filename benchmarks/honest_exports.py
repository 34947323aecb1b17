"""Whether the gate takes honest files for hostile: exports of public networks, each held against its own library.

    python -m benchmarks.honest_exports [--log FILE] [--only TEXT]

Every network of ``NETWORKS``, with untrained weights, in every form that an exporter makes of it. The gate must accept
the file, and read from it the tensors that ``safetensors``, ``torch.jit.load`` or ``onnx`` read: the same names, shapes
and bytes. A form that an exporter refuses is no file. ``--log`` keeps a line for each; another call goes on from there.
"""

import argparse
import io
import json
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import safetensors
import torch
from onnx import numpy_helper
from safetensors.torch import save
from torch import Tensor, nn

from benchmarks.common import write_result
from benchmarks.exports import archive, network_of, onnx_file, scripted, traced
from formats import FormatError, Manifest, Source, inspect, stored_bytes
from formats.tensors import to_bytes
from wiper_cli.reports.plain import plain

#: Architecture, and the side of its image where it takes a smaller one than its own; the small ones first.
NETWORKS: dict[str, int | None] = {
    **{f"timm/{name}": 64 for name in (
        "mobilenetv3_small_050", "mobilenetv4_conv_small_035", "lcnet_050", "tinynet_e", "semnasnet_050",
        "ghostnet_050", "edgenext_xx_small", "efficientvit_b0", "fasternet_t0", "mobilevit_xxs", "mobilevitv2_050",
        "pvt_v2_b0", "repghostnet_050", "starnet_s050", "convnext_atto", "convnextv2_atto", "inception_next_atto",
        "mobileone_s0", "mobilenetv1_100", "ese_vovnet19b_dw", "tf_mobilenetv3_small_minimal_100", "mixnet_s",
    )},
    **{f"torchvision/{name}": 64 for name in (
        "resnet18", "squeezenet1_1", "shufflenet_v2_x0_5", "mnasnet0_5", "mobilenet_v3_small", "mobilenet_v2",
        "regnet_x_400mf", "regnet_y_400mf", "mobilenet_v3_large", "efficientnet_b0", "densenet121", "googlenet",
    )},
    **{f"timm/{name}": None for name in (
        "vit_tiny_patch16_224", "deit_tiny_distilled_patch16_224", "pit_ti_224", "tiny_vit_5m_224", "convit_tiny",
        "levit_128s", "xcit_nano_12_p16_224", "crossvit_tiny_240", "cait_xxs24_224", "mixer_s32_224",
    )},
    **{f"timm/{name}": 64 for name in (
        "cs3darknet_s", "dla34", "dpn48b", "ecaresnet26t", "fbnetc_100", "gernet_s", "ghostnetv2_100", "hardcorenas_a",
        "hgnetv2_b0", "hrnet_w18_small", "mambaout_femto", "nf_regnet_b0", "nf_resnet26", "poolformer_s12",
        "regnetz_005", "repvgg_b0", "res2net50_26w_4s", "resnest14d", "resnetblur18", "resnetv2_18", "rexnet_100",
        "selecsls42b", "seresnet18", "skresnet18", "tf_efficientnet_lite0",
    )},
    **{f"torchvision/{name}": 64 for name in (
        "resnet50", "resnext50_32x4d", "efficientnet_v2_s", "convnext_tiny", "swin_t", "swin_v2_t", "vgg11_bn",
        "alexnet",
    )},
    "timm/swin_tiny_patch4_window7_224": None, "torchvision/inception_v3": 96, "torchvision/maxvit_t": None,
    "torchvision/vit_b_32": None,
}  # fmt: skip
#: The form that takes longest to make, and is left for the end.
SLOW = "onnx, second exporter"
OPSETS = (11, 12, 13, 14, 15, 16, 17, 18)
DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def _frozen(network: nn.Module, x: Tensor) -> bytes:
    return archive(torch.jit.freeze(torch.jit.trace(network, x, check_trace=False)))


def _frozen_script(network: nn.Module, x: Tensor) -> bytes:
    return archive(torch.jit.freeze(torch.jit.script(network)))


def _dynamo(network: nn.Module, x: Tensor, opset: int) -> bytes:
    batch = torch.export.Dim("batch")
    program = torch.onnx.export(
        network, (torch.cat([x, x]),), dynamo=True, opset_version=opset, dynamic_shapes=({0: batch},), verbose=False
    )  # fmt: skip
    data: bytes = program.model_proto.SerializeToString()  # type: ignore[union-attr]
    return data


def _outside(data: bytes) -> dict[str, bytes]:
    """The files of an ONNX model that keeps its tensors in one beside it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model"
        onnx.save_model(onnx.load_from_string(data), path, save_as_external_data=True, location="w.data")
        return {"": path.read_bytes(), "w.data": (path.parent / "w.data").read_bytes()}


def _sharded(tensors: dict[str, Tensor]) -> dict[str, bytes]:
    names = [*tensors]
    halves = names[: len(names) // 2], names[len(names) // 2 :]
    files = {f"model-0000{i}-of-00002.safetensors": part for i, part in enumerate(halves, 1)}
    index = {"metadata": {}, "weight_map": {name: file for file, part in files.items() for name in part}}
    return {
        "": json.dumps(index).encode(),
        **{file: save({name: tensors[name] for name in part}, {"format": "pt"}) for file, part in files.items()},
    }  # fmt: skip


def forms(name: str, number: int) -> Iterator[tuple[str, Callable[[], dict[str, bytes]]]]:
    """Form → what makes its files, the model's under "". ``number``: of the network, settles opset and dtype."""
    network, x = network_of(name, NETWORKS[name])
    opset, dtype = OPSETS[number % len(OPSETS)], DTYPES[number % len(DTYPES)]
    kept: dict[str, bytes] = {}

    def legacy() -> bytes:
        if not kept:
            kept[""] = onnx_file(network, x, opset)
        return kept[""]

    def tensors() -> dict[str, Tensor]:
        found = network.state_dict().items()
        return {key: (v.to(dtype) if v.is_floating_point() else v).contiguous().clone() for key, v in found}

    yield f"safetensors, {dtype}", lambda: {"": save(tensors(), {"format": "pt"})}
    yield "safetensors, two shards", lambda: _sharded(tensors())
    yield "torchscript, traced", lambda: {"": traced(network, x)}
    yield "torchscript, scripted", lambda: {"": scripted(network, x)}
    yield "torchscript, traced and frozen", lambda: {"": _frozen(network, x)}
    yield "torchscript, scripted and frozen", lambda: {"": _frozen_script(network, x)}
    yield f"onnx, first exporter, opset {opset}", lambda: {"": legacy()}
    yield "onnx, first exporter, tensors outside", lambda: _outside(legacy())
    yield (
        f"onnx, second exporter, opset {18 + number % 4}",
        lambda: {"": _dynamo(network, x, 18 + number % 4)},
    )


def read_by_library(kind: str, source: Source) -> dict[str, tuple[tuple[int, ...], bytes]]:
    """Name → shape and bytes of every tensor; those of constants in code have no name of their own: "=0", "=1", …"""
    if kind == "safetensors":
        parts = source.files.values() or [source.data]
        read = [one for part in parts for one in safetensors.deserialize(part)]
        return {name: (tuple(one["shape"]), bytes(one["data"])) for name, one in read}
    if kind == "torchscript":
        module = torch.jit.load(io.BytesIO(source.data))
        named = {**dict(module.named_parameters(remove_duplicate=False)),
                 **dict(module.named_buffers(remove_duplicate=False))}  # fmt: skip
        graph = module.inlined_graph  # its nodes live as long as it does
        held = [node for node in graph.findAllNodes("prim::Constant") if node.hasAttribute("value")]
        constants = [node.t("value") for node in held if node.kindOf("value") == "t"]
        named |= {f"={i}": value for i, value in enumerate(constants)}
        return {name: (tuple(value.shape), to_bytes(value)) for name, value in named.items()}
    model = onnx.load_from_string(source.data)
    with tempfile.TemporaryDirectory() as folder:
        for name, data in source.files.items():
            (Path(folder) / name).write_bytes(data)
        onnx.load_external_data_for_model(model, folder)
    stored = [(one.name, one) for one in model.graph.initializer]
    for node in model.graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            stored.append((node.output[0], node.attribute[0].t))
    arrays = {name: numpy_helper.to_array(one) for name, one in stored}
    return {name: (value.shape, np.ascontiguousarray(value).tobytes()) for name, value in arrays.items()}


def difference(source: Source, manifest: Manifest) -> str:
    """The first tensor that the gate and the library read in two ways."""
    theirs = read_by_library(manifest.kind, source)
    unnamed = {theirs.pop(name) for name in [*theirs] if name.startswith("=")}
    ours = {name: (one.shape, stored_bytes(source, one)) for name, one in manifest.tensors.items()}
    for name, value in ours.items():
        if name.startswith("constants.c") and manifest.kind == "torchscript":
            if value not in unnamed:
                return f"constant {name} is none of the library's"
        elif name not in theirs:
            return f"{name} is unknown to the library"
        elif theirs[name] != value:
            return f"{name}: {value[0]} and {theirs[name][0]}, or other values"
    known = {*ours, *(alias for one in manifest.tensors.values() for alias in one.aliases)}
    return next((f"{name} is unknown to the gate" for name in theirs if name not in known), "")


def look(name: str, form: str, make: Callable[[], dict[str, bytes]]) -> dict[str, Any]:
    """One file: what came of it, and processor seconds of the gate."""
    row: dict[str, Any] = {"network": name, "form": form}
    try:
        files = make()
    except Exception as error:  # each exporter refuses in its own words
        return {**row, "outcome": "not exported", "why": plain(f"{type(error).__name__}: {error}", 120)}
    source = Source("model", files.pop(""), files)
    began = time.process_time()
    try:
        manifest = inspect(source)
    except FormatError as error:
        return {**row, "outcome": "refused", "why": plain(error, 300)}
    row |= {
        "bytes": source.size,
        "seconds": round(time.process_time() - began, 3),
        "tensors": len(manifest.tensors),
    }
    differs = difference(source, manifest)
    return {**row, "outcome": "differs" if differs else "agrees", **({"why": differs} if differs else {})}


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Counts, and all that is not as it should be."""
    files = [row for row in rows if row["outcome"] != "not exported"]
    return {
        "files": len(files),
        "networks": len({row["network"] for row in files}),
        "agree": sum(row["outcome"] == "agrees" for row in files),
        "files_by_form": dict(sorted(Counter(row["form"] for row in files).items())),
        "refused": [row for row in files if row["outcome"] == "refused"],
        "differ": [row for row in files if row["outcome"] == "differs"],
        "not_exported": dict(sorted(Counter(row["form"] for row in rows if row not in files).items())),
        "tensors": sum(row.get("tensors", 0) for row in files),
        "greatest_seconds": max((row.get("seconds", 0) for row in files), default=0),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--log", type=Path, default=Path(tempfile.gettempdir()) / "honest_exports.jsonl")
    parser.add_argument("--only", default="", metavar="TEXT", help="networks whose name contains this")
    asked = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    asked.log.touch()
    rows = [json.loads(line) for line in asked.log.read_text().splitlines()]
    done = {(row["network"], row["form"]) for row in rows}
    with asked.log.open("a") as stream:
        for slow in (False, True):
            for number, name in enumerate(NETWORKS):
                left = sum(one == name and form.startswith(SLOW) == slow for one, form in done) < (
                    1 if slow else 8
                )
                for form, make in forms(name, number) if left and asked.only in name else ():
                    if (name, form) not in done and form.startswith(SLOW) == slow:
                        rows.append(look(name, form, make))
                        print(json.dumps(rows[-1]), file=stream, flush=True)
                print(f"{number + 1} of {len(NETWORKS)}: {name}", file=sys.stderr, flush=True)
    write_result("honest_exports", summary(rows))


if __name__ == "__main__":
    main()
