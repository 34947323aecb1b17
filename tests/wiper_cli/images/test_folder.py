import json
import os
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from refusals import refused

from wiper_cli.images.decode import Geometry, SkipError, decode, fit
from wiper_cli.images.folder import MINIMUM, printable, read_folder
from wiper_cli.verdict import ExitCode, Problem

SMALL = Geometry(3, 8, 8)


def noise(height=8, width=8, channels=3, seed=0):
    shape = (height, width, channels) if channels > 1 else (height, width)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def save(path, pixels=None, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(noise() if pixels is None else pixels).save(path, **options)
    return path


@pytest.fixture
def tree(tmp_path):
    """Four classes: 60, 30, 20 and 10 images, every image's pixels are its own."""
    seed = 0
    for name, count in {"cat": 60, "dog": 30, "eel": 20, "fox": 10}.items():
        for i in range(count):
            save(tmp_path / "clean" / name / f"{i:03}.png", noise(seed=seed))
            seed += 1
    return tmp_path / "clean"


def test_a_model_without_class_names_takes_the_folders(tree):
    assert read_folder(tree, 5).names == ["cat", "dog", "eel", "fox", "4"]
    assert read_folder(tree, 4, ("a", "b", "c", "d"), "order").names == ["a", "b", "c", "d"]


def test_labels_by_class_names(tree):
    folder = read_folder(tree, 5, ("Fox", "eel", "CAT", "bird", "Dog, domestic"))
    assert folder.labelled
    found = {Path(file).parts[0]: int(label) for file, label in zip(folder.files, folder.labels, strict=True)}
    assert found == {"cat": 2, "dog": 4, "eel": 1, "fox": 0}
    assert "class names" in folder.origin


def test_folders_that_match_no_name_are_left_out_and_counted(tree):
    folder = read_folder(tree, 4, ("cat", "dog", "eel", "gnu"))
    assert len(folder) == 110
    assert folder.describe()["skipped"] == [
        {
            "reason": "folder that names no class",
            "count": 10,
            "examples": [f"fox/{i:03}.png" for i in range(5)],
        }
    ]


def test_labels_by_wordnet_id(tmp_path):
    save(tmp_path / "n01440764" / "a.png")
    save(tmp_path / "n01443537_goldfish" / "a.png")
    folder = read_folder(tmp_path, 3, ("x", "n01443537 goldfish, Carassius auratus", "n01440764 tench"))
    assert folder.labels.tolist() == [2, 1]


def test_labels_by_order_without_names(tree):
    folder = read_folder(tree, 4)
    assert folder.labels.bincount().tolist() == [60, 30, 20, 10]
    assert "alphabetical order" in folder.origin
    assert "folders for" not in folder.origin
    assert "4 folders for 7 classes" in read_folder(tree, 7).origin


@pytest.mark.parametrize(
    ("folders", "classes", "labels"),
    [
        (["0", "2", "10"], 11, {"0": 0, "2": 2, "10": 10}),
        (["00", "07"], 10, {"00": 0, "07": 7}),
        (["1", "2", "3"], 3, {"1": 0, "2": 1, "3": 2}),
        (["1", "2"], 3, {"1": 1, "2": 2}),
        (["5", "9"], 3, {"5": 0, "9": 1}),
        (["1", "01"], 3, {"1": 1, "01": 0}),
    ],
)
def test_numbered_folders(tmp_path, folders, classes, labels):
    for name in folders:
        save(tmp_path / name / "a.png")
    folder = read_folder(tmp_path, classes)
    assert {Path(f).parts[0]: int(y) for f, y in zip(folder.files, folder.labels, strict=True)} == labels


def test_number_order_that_is_not_alphabetical_is_said(tmp_path):
    for name in range(11):
        save(tmp_path / str(name) / "a.png")
    assert "not in alphabetical order" in read_folder(tmp_path, 11).origin


def test_asked_for_modes(tree):
    assert not read_folder(tree, 4, labels="predictions").labelled
    assert "as asked" in read_folder(tree, 4, labels="predictions").origin
    assert read_folder(tree, 4, ("dog", "cat", "x", "y"), labels="order").labels[0] == 0
    with pytest.raises(Problem, match="no folder is named for a class"):
        read_folder(tree, 4, ("a", "b"), labels="names")
    with pytest.raises(Problem, match="class numbers from 0 to 3"):
        read_folder(tree, 4, labels="numbers")


def test_flat_folder_has_unknown_labels(tmp_path):
    for i in range(3):
        save(tmp_path / f"{i}.png")
    folder = read_folder(tmp_path, 10)
    assert not folder.labelled
    assert folder.labels.tolist() == [-1, -1, -1]
    assert "own predictions" in folder.origin
    assert folder.describe()["classes"] == []


def test_listing_is_sorted_and_passes_over_hidden_and_deep(tmp_path):
    save(tmp_path / "b" / "deep" / "er" / "z.png")
    save(tmp_path / "b" / "a.png")
    save(tmp_path / "a" / "z.png")
    save(tmp_path / "a" / ".hidden.png")
    save(tmp_path / ".cache" / "x.png")
    save(tmp_path / "__MACOSX" / "x.png")
    save(tmp_path / "loose.png")
    folder = read_folder(tmp_path, 2)
    assert list(folder.files) == ["a/z.png", "b/a.png", "b/deep/er/z.png"]
    assert folder.labels.tolist() == [0, 1, 1]
    assert folder.describe()["skipped"] == [
        {"reason": "outside the class folders", "count": 1, "examples": ["loose.png"]}
    ]


def test_links_that_lead_back_and_links_that_lead_nowhere(tmp_path):
    save(tmp_path / "a" / "x.png")
    save(tmp_path / "b" / "y.png")
    (tmp_path / "a" / "loop").symlink_to(tmp_path)
    (tmp_path / "a" / "gone.png").symlink_to(tmp_path / "nothing.png")
    folder = read_folder(tmp_path, 2)
    assert list(folder.files) == ["a/gone.png", "a/x.png", "b/y.png"]
    assert sum(len(batch.images) for batch in folder.stream(SMALL)) == 2
    assert folder.skipped == {"a/gone.png": "broken link or file that vanished"}


def test_name_that_is_no_utf8(tmp_path):
    pixels = noise()
    save(tmp_path / "a" / "x.png", pixels)
    try:
        (tmp_path / "a" / "x.png").rename(tmp_path / "a" / os.fsdecode(b"\xff\xfe.png"))
    except OSError:
        pytest.skip("the file system takes UTF-8 names only")
    save(tmp_path / "b" / "y.png")
    (tmp_path / "b" / os.fsdecode(b"bad\xe9.png")).write_bytes(b"x")
    folder = read_folder(tmp_path, 2)
    assert next(folder.stream(SMALL)).images.shape == (2, 3, 8, 8)
    assert b"bad" in json.dumps(folder.describe(), ensure_ascii=False).encode("utf-8")
    assert printable(folder.files[0]) == "a/��.png"


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda p: None, "no such folder"),
        (lambda p: p.write_text("x"), "is not a folder"),
        (lambda p: p.mkdir(), "holds no files"),
        (lambda p: (p / "a").mkdir(parents=True), "holds no files"),
        (lambda p: save(p / "train" / "a" / "x.png"), "one level deeper.*train"),
        (lambda p: (save(p / "train" / "a" / "x.png"), save(p / "test" / "a" / "x.png")), "one level deeper"),
        (lambda p: [save(p / name / "x.png") for name in "abc"], "3 class folders and the model 2 classes"),
    ],
)
def test_refused_folders(tmp_path, make, sentence):
    make(tmp_path / "clean")
    with refused(sentence, ExitCode.USAGE):
        read_folder(tmp_path / "clean", 2)


def one(path, channels=3, size=(8, 8)):
    return decode(str(path), Geometry(channels, *size))


def test_pixels_come_through_unchanged(tmp_path):
    pixels = noise(8, 6)
    image, converted = one(save(tmp_path / "x.png", pixels), size=(8, 6))
    assert image.dtype == torch.uint8
    assert np.array_equal(image.permute(1, 2, 0).numpy(), pixels)
    assert converted == ()


def test_grey_for_a_colour_model_and_colour_for_a_grey_one(tmp_path):
    pixels = noise(channels=1)
    grey = save(tmp_path / "g.png", pixels)
    image, converted = one(grey)
    assert (image == torch.from_numpy(pixels.copy())).all()
    assert (converted, one(grey, channels=1)[1]) == (("grey replicated to three channels",), ())
    colour = noise()
    image, converted = one(save(tmp_path / "c.png", colour), channels=1)
    assert np.abs(image[0].numpy() - (colour @ np.array([0.299, 0.587, 0.114]))).max() <= 1
    assert converted == ("colour reduced to its luma",)


def test_alpha_is_dropped_not_composed(tmp_path):
    pixels = np.dstack([noise(), np.zeros((8, 8), np.uint8)])
    image, converted = one(save(tmp_path / "x.png", pixels))
    assert np.array_equal(image.permute(1, 2, 0).numpy(), pixels[:, :, :3])
    assert converted == ("alpha channel dropped",)


def test_palette_cmyk_and_one_bit(tmp_path):
    picture = Image.fromarray(noise()).quantize(16)
    picture.save(tmp_path / "p.png", transparency=3)
    image, converted = one(tmp_path / "p.png")
    assert np.array_equal(image.permute(1, 2, 0).numpy(), np.asarray(picture.convert("RGB")))
    assert converted == ("alpha channel dropped", "palette resolved")
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "c.jpg", quality=100)
    image, converted = one(tmp_path / "c.jpg")
    assert image[0].min() > 200
    assert image[1:].max() < 60
    assert converted == ("CMYK converted to RGB",)
    Image.fromarray(noise(channels=1) > 127).save(tmp_path / "b.png")
    assert set(one(tmp_path / "b.png")[0].unique().tolist()) == {0, 255}


def test_sixteen_bits_and_floats_are_scaled_not_clipped(tmp_path):
    deep = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    image, converted = one(save(tmp_path / "deep.png", deep), channels=1)
    assert np.abs(image[0].numpy() - deep / 257.0).max() <= 0.51
    assert converted == ("more than 8 bits: scaled to 8",)
    unit = np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)
    image, _ = one(save(tmp_path / "unit.tif", unit), channels=1)
    assert np.abs(image[0].numpy() - 255 * unit).max() <= 0.51
    with pytest.raises(SkipError, match="unknown range"):
        one(save(tmp_path / "far.tif", unit * 4000 - 7), channels=1)


@pytest.mark.parametrize(("tag", "turn"), [(3, 2), (6, 3), (8, 1)])
def test_exif_rotation_is_honoured(tmp_path, tag, turn):
    pixels = noise()
    exif = Image.Exif()
    exif[0x0112] = tag
    image, converted = one(save(tmp_path / "x.png", pixels, exif=exif))
    assert np.array_equal(image.permute(1, 2, 0).numpy(), np.rot90(pixels, turn))
    assert converted == ("rotated as its EXIF data say",)


def test_first_frame_of_an_animation(tmp_path):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ((255, 0, 0), (0, 0, 255))]
    frames[0].save(tmp_path / "x.gif", save_all=True, append_images=frames[1:])
    image, converted = one(tmp_path / "x.gif")
    assert image[0].min() > 200
    assert "several frames: the first taken" in converted


def test_what_is_skipped_is_named(tmp_path, monkeypatch):
    whole = save(tmp_path / "whole.png", noise(64, 64)).read_bytes()
    Image.fromarray(noise(64, 64)).save(tmp_path / "whole.jpg", quality=95)
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "whole.jpg").read_bytes()[:2000])
    (tmp_path / "flipped.png").write_bytes(whole[:300] + bytes([whole[300] ^ 255]) + whole[301:])
    (tmp_path / "text.jpg").write_text("no picture")
    (tmp_path / "empty.png").write_bytes(b"")
    Image.new("1", (9000, 9000)).save(tmp_path / "bomb.png")
    Image.new("1", (20000, 20000)).save(tmp_path / "bigger.png")
    (tmp_path / "page.eps").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n")
    os.mkfifo(tmp_path / "pipe.png")
    folder = read_folder(tmp_path, 10)
    assert sum(len(batch.images) for batch in folder.stream(SMALL)) == 2
    assert folder.skipped == {
        "cut.png": "truncated", "cut.jpg": "truncated", "flipped.png": "damaged", "text.jpg": "not an image",
        "empty.png": "empty file", "bomb.png": "larger than 64 megapixels",
        "bigger.png": "larger than 64 megapixels", "page.eps": "not an image",
        "pipe.png": "not a regular file",
    }  # fmt: skip
    said = folder.describe()
    assert said["images"] == 2
    assert {entry["reason"]: entry["count"] for entry in said["skipped"]}["truncated"] == 2


def test_any_garbage_is_skipped_or_decoded_never_raised(tmp_path):
    draw = np.random.default_rng(5)
    for suffix in ("png", "jpg", "gif", "bmp", "tif", "webp", "ppm"):
        Image.fromarray(noise(16, 16)).save(tmp_path / f"x.{suffix}")
        whole = (tmp_path / f"x.{suffix}").read_bytes()
        for trial in range(12):
            data = bytearray(whole)
            for place in draw.integers(0, len(data), 6):
                data[place] = draw.integers(0, 256)
            (tmp_path / f"{suffix}{trial}.{suffix}").write_bytes(data)
    folder = read_folder(tmp_path, 10)
    good = sum(len(batch.images) for batch in folder.stream(SMALL))
    assert good + len(folder.skipped) == len(folder)
    assert good >= 7


def test_squash_and_crop(tmp_path):
    picture = Image.fromarray(noise(30, 60))
    assert fit(picture, Geometry(3, 10, 20)).size == (20, 10)
    squashed = fit(picture, Geometry(3, 30, 30))
    assert np.array_equal(squashed, picture.resize((30, 30), Image.Resampling.BILINEAR))
    assert np.array_equal(fit(picture, Geometry(3, 30, 30, "crop")), picture.crop((15, 0, 45, 30)))
    short = fit(picture, Geometry(3, 16, 16, "crop", short_side=20, interpolation="bicubic"))
    expected = picture.resize((40, 20), Image.Resampling.BICUBIC).crop((12, 2, 28, 18))
    assert np.array_equal(short, expected)


@pytest.mark.parametrize("size", [(1, 1), (1, 3000), (3000, 1), (61, 97)])
@pytest.mark.parametrize("resize", ["squash", "crop"])
@pytest.mark.parametrize("short_side", [None, 40])
def test_every_shape_fits(size, resize, short_side):
    picture = Image.new("RGB", size[::-1])
    assert fit(picture, Geometry(3, 32, 24, resize, short_side)).size == (24, 32)


def test_a_hair_is_cut_before_it_is_enlarged(monkeypatch):
    monkeypatch.setattr("wiper_cli.images.decode.MAX_PIXELS", 100_000)
    picture = Image.fromarray(
        np.repeat(np.arange(0, 250, 0.5, dtype=np.float32).astype(np.uint8)[None], 2, 0)
    )
    found = np.asarray(fit(picture, Geometry(1, 32, 32, "crop", short_side=40)), dtype=float)
    assert found.shape == (32, 32)
    assert abs(found.mean() - 125) < 1


def test_same_as_torchvision_style_evaluation(tmp_path):
    # Short side to 36, centre 32: the pipeline of the usual evaluation transforms, by hand.
    for height, width in [(40, 53), (53, 40), (37, 37)]:
        picture = Image.fromarray(noise(height, width))
        found = fit(picture, Geometry(3, 32, 32, "crop", short_side=36))
        long = int(36 * max(height, width) / min(height, width))
        size = (long, 36) if width >= height else (36, long)
        scaled = picture.resize(size, Image.Resampling.BILINEAR)
        left, top = round((size[0] - 32) / 2), round((size[1] - 32) / 2)
        assert np.array_equal(found, scaled.crop((left, top, left + 32, top + 32)))


def test_stream_keeps_order_and_leaves_out_what_is_skipped(tree):
    (tree / "cat" / "007.png").write_text("broken")
    folder = read_folder(tree, 4)
    batches = list(folder.stream(SMALL, batch=16))
    assert [len(batch.images) for batch in batches] == [16] * 7 + [7]
    indices = torch.cat([batch.indices for batch in batches])
    assert indices.tolist() == [i for i in range(120) if i != 7]
    assert torch.equal(torch.cat([batch.labels for batch in batches]), folder.labels[indices])
    images = torch.cat([batch.images for batch in batches])
    assert np.array_equal(images[6].permute(1, 2, 0).numpy(), noise(seed=6))
    assert np.array_equal(images[7].permute(1, 2, 0).numpy(), noise(seed=8))
    again = list(folder.stream(SMALL, batch=50, threads=5, indices=torch.tensor([90, 3])))
    assert (again[0].indices.tolist(), folder.describe()["skipped"][0]["count"]) == ([90, 3], 1)


def test_stream_decodes_only_a_little_ahead(tree, monkeypatch):
    calls = []
    lock = threading.Lock()

    def counted(path, geometry):
        with lock:
            calls.append(path)
        return decode(path, geometry)

    monkeypatch.setattr("wiper_cli.images.folder.decode", counted)
    stream = read_folder(tree, 4).stream(SMALL, batch=8)
    next(stream)
    assert len(calls) <= 8 + 2 * 8 + 8
    stream.close()
    assert len(calls) < 120


def test_parts_are_stratified_disjoint_and_repeatable(tree):
    folder = read_folder(tree, 4)
    parts = folder.split(seed=1)
    assert [len(parts[name]) for name in ("fit", "select", "report")] == [72, 24, 24]
    assert torch.cat(list(parts.values())).sort()[0].tolist() == list(range(120))
    for name, share in {"fit": 0.6, "select": 0.2, "report": 0.2}.items():
        counts = folder.labels[parts[name]].bincount(minlength=4)
        assert (counts - share * torch.tensor([60, 30, 20, 10])).abs().max() <= 1
    again = read_folder(tree, 4).split(seed=1)
    assert all(torch.equal(parts[name], again[name]) for name in parts)
    assert not torch.equal(parts["fit"], folder.split(seed=2)["fit"])


def test_max_images_keeps_proportions(tree):
    folder = read_folder(tree, 4)
    parts = folder.split(seed=0, max_images=90)
    chosen = torch.cat(list(parts.values()))
    assert len(chosen) == 90
    assert (folder.labels[chosen].bincount() - torch.tensor([45, 22.5, 15, 7.5])).abs().max() <= 1


def test_parts_in_memory(tree):
    (tree / "dog" / "003.png").write_text("broken")
    folder = read_folder(tree, 4)
    clean = folder.clean(SMALL, seed=0)
    parts = folder.split(seed=0)
    assert clean.fit.images.dtype == torch.uint8
    assert len(clean.fit) + len(clean.select) + len(clean.report) == 119
    assert folder.describe()["used"] == {
        "fit": len(clean.fit), "select": len(clean.select), "report": len(clean.report),
    }  # fmt: skip
    assert folder.clean(SMALL, seed=0) is clean
    assert folder.clean(SMALL, seed=1) is not clean
    broken = list(folder.files).index("dog/003.png")
    index = [int(i) for i in parts["report"] if i != broken][5]
    assert np.array_equal(clean.report.images[5].permute(1, 2, 0).numpy(), noise(seed=index))
    assert clean.report.labels[5] == folder.labels[index]


def test_describe(tree):
    folder = read_folder(tree, 5, ("cat", "dog", "eel", "fox", "gnu"))
    folder.clean(SMALL, seed=0)
    said = folder.describe()
    assert (said["path"], said["images"]) == (str(tree), 120)
    assert said["labelled"] is True
    assert (said["classes"][0], len(said["classes"])) == ({"name": "cat", "images": 60}, 4)
    assert said["accuracy"] is None
    assert said["skipped"] == said["converted"] == []
    json.dumps(said)


@pytest.mark.parametrize(
    ("classes", "count", "words"),
    [("a", 100, "at least 2 classes"), ("ab", 30, f"30 usable images; at least {sum(MINIMUM.values())}")],
)
def test_too_few_classes_or_images(tmp_path, classes, count, words):
    for i in range(count):
        save(tmp_path / classes[i % len(classes)] / f"{i}.png")
    with refused(words, ExitCode.NO_VERDICT):
        read_folder(tmp_path, 10).split(seed=0)


def test_limit_below_the_minimum(tree):
    with refused("--max-images 50 is too few; at least 80", ExitCode.USAGE):
        read_folder(tree, 4).split(seed=0, max_images=50)


def test_too_few_images_after_decoding(tree):
    for path in sorted(tree.rglob("*.png"))[::4]:
        path.write_text("x")
    for path in sorted(tree.rglob("*.png"))[1::2]:
        path.write_text("x")
    folder = read_folder(tree, 4)
    with refused(r"30 usable images \(too few for the \w+ part\); at least 80", ExitCode.NO_VERDICT):
        folder.clean(SMALL, seed=0)


def test_sizes_are_read_from_headers(tmp_path):
    for i in range(3):
        save(tmp_path / f"{i}.png", noise(8, 12))
    save(tmp_path / "other.png", noise(5, 5))
    (tmp_path / "text.png").write_text("x")
    assert read_folder(tmp_path, 10).sizes() == {(8, 12): 3, (5, 5): 1}
