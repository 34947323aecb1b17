"""A folder of images may have come from whoever made the model: it costs little and ends in one sentence."""

from __future__ import annotations

import os
import struct
import threading
import time

import numpy as np
import pytest
from PIL import Image
from refusals import refused

from wiper_cli.images import decode, listing
from wiper_cli.images.decode import Geometry, SkipError
from wiper_cli.images.folder import read_folder
from wiper_cli.verdict import ExitCode

SMALL = Geometry(3, 8, 8)


def picture(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8)).save(path, "PNG")


@pytest.mark.parametrize(
    ("levels", "words"), [(40, "folders 32 levels deep"), (30, "more than 3,000 folders")]
)
def test_links_that_lead_on_to_links(levels, words, tmp_path, monkeypatch):
    """Two from each folder to the next: 2^39 ways to the last one."""
    monkeypatch.setattr(listing, "MOST_FOLDERS", 3000)
    for level in range(levels):
        (tmp_path / f"{level}").mkdir()
        for name in "ab":
            (tmp_path / f"{level}" / name).symlink_to(tmp_path / f"{level + 1}")
    picture(tmp_path / f"{levels}" / "x.png")
    with refused(words, ExitCode.USAGE):
        read_folder(tmp_path / "0", 10)


def test_1500_levels(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for _ in range(1500):
        os.mkdir("a")  # noqa: PTH102
        os.chdir("a")
    with refused("folders 32 levels deep", ExitCode.USAGE):
        read_folder(tmp_path, 10)
    for _ in range(1500):  # from within: nothing removes a path so long
        os.chdir("..")
        os.rmdir("a")  # noqa: PTH106


def test_very_many_entries(tmp_path, monkeypatch):
    monkeypatch.setattr(listing, "MOST_FILES", 50)
    for i in range(51):
        (tmp_path / f"{i}").touch()
    with refused("more than 50 files", ExitCode.USAGE):
        read_folder(tmp_path, 10)


def test_very_long_names_that_links_multiply(tmp_path, monkeypatch):
    monkeypatch.setattr(listing, "MOST_LETTERS", 20_000)
    for name in range(100):
        (tmp_path / "0" / ("x" * 100)).mkdir(parents=True, exist_ok=True)
        (tmp_path / "0" / ("x" * 100) / f"{name}.png").touch()
    assert len(listing.walk(tmp_path / "0")[0]) == 100
    (tmp_path / "0" / "again").symlink_to("x" * 100)
    (tmp_path / "0" / ("y" * 100)).symlink_to("x" * 100)
    with refused("names that are too long together", ExitCode.USAGE):
        read_folder(tmp_path / "0", 10)


def test_what_is_no_file_or_has_an_odd_name_is_left_out_alone(tmp_path):
    odd = ["\x1b[2J.png", "a\nb.png", "‮gnp.png", "-rf", "$(touch x).png", "x" * 250 + ".png", "con.png"]
    for name in odd:
        picture(tmp_path / "a" / name)
    picture(tmp_path / "b" / "x.png")
    os.mkfifo(tmp_path / "a" / "pipe.png")
    (tmp_path / "a" / "zero.png").symlink_to("/dev/zero")
    (tmp_path / "a" / "there.png").symlink_to("back.png")
    (tmp_path / "a" / "back.png").symlink_to("there.png")
    found = read_folder(tmp_path, 2)
    assert sum(len(batch.images) for batch in found.stream(SMALL)) == len(odd) + 1
    assert {*found.skipped} == {f"a/{name}.png" for name in ("pipe", "zero", "there", "back")}


@pytest.mark.parametrize("suffix", ["webp", "jp2", "gif", "png"])
def test_a_few_bytes_that_are_many_pixels_are_not_decoded(suffix, tmp_path, monkeypatch):
    path = tmp_path / f"x.{suffix}"
    Image.new("P" if suffix == "gif" else "RGB", (3000, 2000)).save(
        path, **{"lossless": True} if suffix == "webp" else {}
    )
    monkeypatch.setattr(decode, "_convert", None)  # would raise, and be called damaged
    with pytest.raises(SkipError, match="more than 100 pixels in a byte"):
        decode.decode(str(path), SMALL)


def test_a_picture_in_very_many_scans_is_not_decoded(tmp_path, monkeypatch):
    path = tmp_path / "x.jpg"
    Image.new("RGB", (64, 64)).save(path, progressive=True)
    data = path.read_bytes()
    assert decode.decode(str(path), SMALL)[0].shape == (3, 8, 8)
    last = data.rindex(b"\xff\xda")
    path.write_bytes(data[:last] + 100 * data[last:-2] + data[-2:])
    monkeypatch.setattr(decode, "_convert", None)  # would raise, and be called damaged
    with pytest.raises(SkipError, match="more than 100 scans"):
        decode.decode(str(path), SMALL)


@pytest.mark.parametrize("quality", [5, 95])
def test_a_large_photograph_is_decoded(quality, tmp_path):
    noise = np.random.default_rng(0).normal(0, 6, (2100, 2800, 3))
    ramp = np.add.outer(np.linspace(0, 90, 2100), np.linspace(0, 90, 2800))[..., None]
    path = tmp_path / "x.jpg"
    Image.fromarray((ramp + noise + 40).clip(0, 255).astype(np.uint8)).save(path, quality=quality)
    assert decode.decode(str(path), SMALL)[0].shape == (3, 8, 8)


def test_large_pictures_are_decoded_one_at_a_time(tmp_path, monkeypatch):
    active, most, real = [], [], decode._convert

    def watched(picture, channels):
        active.append(None)
        time.sleep(0.1)
        most.append(len(active))
        active.pop()
        return real(picture, channels)

    monkeypatch.setattr(decode, "_convert", watched)
    monkeypatch.setattr(decode, "LARGE", 1)
    monkeypatch.setattr(decode, "DENSEST", 1000)
    picture(tmp_path / "x.png")
    threads = [
        threading.Thread(target=decode.decode, args=(str(tmp_path / "x.png"), SMALL)) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1, 1, 1, 1]


@pytest.mark.parametrize(("side", "skipped"), [(16, []), (20_000, ["a/x.tif"])])
def test_the_tile_of_a_picture_is_bounded_as_the_picture_is(side, skipped, tmp_path):
    """libtiff makes room for the whole tile."""
    tags = {256: 8, 257: 8, 258: 8, 259: 1, 262: 1, 277: 1, 322: side, 323: side, 324: 142, 325: side * side}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    (tmp_path / "a").mkdir()
    head = b"II*\0" + struct.pack("<IH", 8, len(tags))
    (tmp_path / "a" / "x.tif").write_bytes(head + entries + bytes(4 + 16 * 16))
    picture(tmp_path / "a" / "x.png")
    picture(tmp_path / "b" / "x.png")
    found = read_folder(tmp_path, 2)
    assert sum(len(batch.images) for batch in found.stream(SMALL)) == 3 - len(skipped)
    assert [*found.skipped] == skipped
    assert all("megapixels" in reason for reason in found.skipped.values())
