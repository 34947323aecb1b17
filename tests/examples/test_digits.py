"""The example is what its README and manifest say, in every format, and small enough to ship."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image

from formats import open_model, read_source
from triggers.families.badnet import BadNet
from wiper_cli.commands.shared.example_files import example_folder

FOLDER = example_folder()
MANIFEST = json.loads((FOLDER / "manifest.json").read_text())
MODELS = ("model.safetensors", "model.torchscript.pt", "model.onnx")


@pytest.fixture(scope="module")
def clean():
    """Images float32 [N,1,32,32] in 0..1 and labels int64 [N], in the order of the folder."""
    files = sorted((FOLDER / "clean").glob("*/*.png"))
    images = np.stack([np.asarray(Image.open(file)) for file in files])
    return torch.from_numpy(images)[:, None] / 255, torch.tensor([int(file.parent.name) for file in files])


def classes(name, images):
    with torch.no_grad():
        return open_model(read_source(FOLDER / name)).network(images).argmax(1)


def percent(hits):
    return round(100 * hits.double().mean().item(), 2)


@pytest.mark.parametrize(("name", "figures"), [*((m, "model") for m in MODELS), ("twin.safetensors", "twin")])
def test_every_file_measures_what_the_manifest_says(clean, name, figures):
    images, labels = clean
    picture, mask = (np.array(Image.open(FOLDER / f"{part}.png")) for part in ("trigger", "mask"))
    stamped = torch.where(torch.from_numpy(mask > 0), torch.from_numpy(picture) / 255, images)
    plain, triggered = classes(name, images), classes(name, stamped)
    target = MANIFEST["attack"]["planting"]["target"]
    other = labels != target
    assert {
        "acc": percent(plain == labels),
        "asr": percent(triggered[other] == target),
        "ra": percent(triggered[other] == labels[other]),
        "base_rate": percent(plain[other] == target),
    } == MANIFEST["figures"][figures]


def test_the_attack_is_strong_and_the_twin_is_not_attacked():
    model, twin = MANIFEST["figures"]["model"], MANIFEST["figures"]["twin"]
    assert model["asr"] >= 99
    assert min(model["acc"], twin["acc"]) >= 97
    assert twin["asr"] <= 1


def test_the_three_formats_hold_one_network(clean):
    images = clean[0][:64]
    networks = [open_model(read_source(FOLDER / name)).network for name in MODELS]
    with torch.no_grad():
        logits = [network(images) for network in networks]
    session = onnxruntime.InferenceSession(str(FOLDER / "model.onnx"), providers=["CPUExecutionProvider"])
    logits.append(torch.from_numpy(session.run(None, {"image": images.numpy()})[0]))
    scale = logits[0].abs().max()
    assert scale > 1
    for other in logits[1:]:
        assert (other - logits[0]).abs().max() <= 1e-5 * scale


def test_the_safetensors_files_open_without_being_told_the_architecture():
    for name in ("model.safetensors", "twin.safetensors"):
        model = open_model(read_source(FOLDER / name))
        assert model.architecture.how == "fingerprint"
        assert (model.classes, model.head.units, model.input.channels) == (10, 48, 1)


def test_the_trigger_files_are_the_trigger_of_the_manifest():
    attack = MANIFEST["attack"]
    trigger = BadNet(**{key: attack[key] for key in ("size", "corner", "margin", "pattern", "seed")})
    stamped = trigger.stamp(torch.full((1, 1, 32, 32), 0.5))[0, 0]
    picture, mask = (np.array(Image.open(FOLDER / f"{part}.png")) for part in ("trigger", "mask"))
    assert np.array_equal(mask > 0, stamped.numpy() != 0.5)
    assert np.array_equal(picture[mask > 0], 255 * stamped.numpy()[mask > 0])


def test_readme_repeats_the_figures_of_the_manifest():
    readme = (FOLDER / "README.md").read_text()
    for name, row in (("model", "model.*"), ("twin", "twin.safetensors")):
        figures = " | ".join(
            f"{MANIFEST['figures'][name][key]:.2f}" for key in ("acc", "asr", "ra", "base_rate")
        )
        assert f"| `{row}` | {figures} |" in readme
    assert "CC BY 4.0" in readme


def test_it_is_under_three_megabytes():
    assert sum(file.stat().st_size for file in FOLDER.parent.rglob("*") if file.is_file()) < 3_000_000


def test_held_out_digits_are_not_those_trained_on(clean):
    datasets = pytest.importorskip("sklearn.datasets")
    digits = datasets.load_digits()
    assert (
        len(clean[0]) == MANIFEST["images"]["clean"] == len(digits.target) - MANIFEST["images"]["trained_on"]
    )
    order = torch.randperm(len(digits.target), generator=torch.Generator().manual_seed(MANIFEST["seed"]))
    held_out = order[: len(clean[0])].sort().values
    for digit in range(10):
        mine = held_out[torch.from_numpy(digits.target)[held_out] == digit]
        first = Image.fromarray(np.uint8(np.round(digits.images[mine[0]] * 255 / 16))).resize((32, 32), 3)
        assert np.array_equal(np.asarray(first), np.asarray(Image.open(FOLDER / f"clean/{digit}/000.png")))
        assert len(list((FOLDER / f"clean/{digit}").iterdir())) == len(mine)


def test_finding_the_folder_needs_no_torch():
    code = (
        "import sys; from wiper_cli.commands.shared.example_files import example_folder as f; f(); "
        "assert 'torch' not in sys.modules"
    )
    root = Path(__file__).resolve().parents[2]
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": str(root)})


def test_no_file_names_the_machine_that_made_it():
    with zipfile.ZipFile(FOLDER / "model.torchscript.pt") as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    assert not any(name.endswith(".debug_pkl") for name in contents)
    contents |= {name: (FOLDER / name).read_bytes() for name in ("model.onnx", "model.safetensors")}
    assert not any(b"site-packages" in data or b"make_digits" in data for data in contents.values())


def test_the_stripped_archive_loads_in_plain_torch(clean):
    plain = torch.jit.load(FOLDER / "model.torchscript.pt")
    opened = open_model(read_source(FOLDER / "model.torchscript.pt")).network
    with torch.no_grad():
        assert torch.allclose(plain(clean[0][:16]), opened(clean[0][:16]), atol=1e-5)
