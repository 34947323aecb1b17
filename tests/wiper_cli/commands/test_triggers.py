"""The trigger families, listed, described, drawn."""

import dataclasses
import io

import pytest
from PIL import Image

from triggers import find, names

FAMILIES = [name for name in names() if name != "known" and find(name).needs == "nothing"]


def test_every_family_is_listed(wiper):
    code, out, err = wiper("triggers")
    assert (code, err, [line.split()[0] for line in out.splitlines()]) == (0, "", list(names()))


@pytest.mark.parametrize("name", names())
def test_a_family_is_described_with_all_its_parameters(name, wiper):
    code, out, _ = wiper("triggers", name)
    assert code == 0
    assert find(name).title in out
    assert find(name).source in out
    for field in dataclasses.fields(find(name)):
        assert (f"  {field.name} = " in out) != bool(field.metadata.get("fitted"))


@pytest.mark.parametrize("name", FAMILIES)
def test_a_preview_is_a_picture(name, wiper, tmp_path):
    code, _, err = wiper("triggers", name, "--preview", tmp_path / "trigger.png")
    assert code == 0
    assert "trigger.png" in err
    with Image.open(io.BytesIO((tmp_path / "trigger.png").read_bytes())) as picture:
        picture.load()
        assert picture.format == "PNG"
        # Clean, triggered and difference side by side.
        side = picture.height
        assert picture.width == 3 * side
        panels = [picture.crop((i * side, 0, (i + 1) * side, side)).tobytes() for i in range(3)]
    assert (len(set(panels)), sorted(path.name for path in tmp_path.iterdir())) == (3, ["cwd", "trigger.png"])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("badnett",), "the nearest is 'badnet'"),
        (("nothing like it",), "There is no trigger family 'nothing like it'."),
        (("--preview", "a.png"), "--preview needs the name of a family"),
        (("known", "--preview", "a.png"), "nothing to preview"),
        (("ia", "--preview", "a.png"), "no picture before it is fitted"),
        (("badnet", "--preview", "none/a.png"), "cannot be written"),
        (("badnet", "--preview", "."), "cannot be written"),
    ],
)
def test_what_cannot_be_shown_is_wrong_usage(arguments, words, wiper, tmp_path):
    code, _, err = wiper("triggers", *arguments)
    assert code == 2
    assert words in err
    assert list((tmp_path / "cwd").iterdir()) == []
