from dataclasses import fields

import pytest
import torch
from safetensors.torch import save

from triggers.errors import TriggerError
from triggers.families.badnet import BadNet
from triggers.families.frequency import Ctrl
from triggers.families.tone import Tone
from triggers.family import parameters
from triggers.store import FORMAT, dump, load


@pytest.fixture
def file(tmp_path):
    """Writes bytes or a trigger to a file."""

    def write(content):
        path = tmp_path / "trigger.safetensors"
        path.write_bytes(content if isinstance(content, bytes) else dump(content))
        return path

    return write


def test_every_family_comes_back(trigger, file, images):
    back, facts = load(file(trigger))
    assert type(back) is type(trigger)
    assert parameters(back) == parameters(trigger)
    assert (facts["format"], facts["family"]) == (FORMAT, trigger.name)
    assert torch.equal(back.stamp(images), trigger.stamp(images))
    for item in fields(trigger):
        if item.metadata.get("stored") and getattr(trigger, item.name) is not None:
            assert torch.equal(getattr(back, item.name), getattr(trigger, item.name).cpu())


def test_changed_parameters_and_the_writers_facts_come_back(file):
    trigger = Ctrl(magnitude=70, frequencies=(3, 5, 7))
    back, facts = load(file(dump(trigger, {"target": "4", "note": "ä"})))
    assert back == trigger
    assert (facts["target"], facts["note"]) == ("4", "ä")
    odd = Tone(matrix=(1, 0, 0, 0, 1, 0, 0, 0, 1))
    assert load(file(odd))[0] == odd


def test_facts_cannot_replace_the_head_and_the_same_trigger_gives_the_same_bytes(file):
    assert load(file(dump(BadNet(), {"family": "blend"})))[0] == BadNet()
    # The library's own order of metadata differs from call to call.
    assert len({dump(Tone(), dict.fromkeys("abcdef", "x")) for _ in range(20)}) == 1


def made(tensors=None, **head):
    """A file whose metadata are as given."""
    metadata = {"format": FORMAT, "family": "badnet", "parameters": "{}", **head}
    return save(tensors or {}, {name: value for name, value in metadata.items() if value is not None})


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "cannot be read"),
        (b"not a trigger at all", "cannot be read"),
        (save({"weight": torch.zeros(2)}), "not a trigger file"),
        (made(format="wiper trigger 0"), "not a trigger file"),
        (made(family="nothing"), "of a family that exists here"),
        (made(family=None), "not a trigger file"),
        (made(parameters=None), "does not fit its family"),
        (made(parameters="{"), "does not fit its family"),
        (made(parameters="[1]"), "does not fit its family"),
        (made(parameters='{"colour": 1}'), "no parameter 'colour'"),
        (made(parameters='{"size": "3"}'), "size cannot be '3'"),
        (made(parameters='{"size": true}'), "size cannot be True"),
        (made(parameters='{"size": 3.5}'), "size cannot be 3.5"),
        (made(parameters='{"size": {"a": 1}}'), "size cannot be"),
        (made(family="blend", parameters='{"alpha": null}'), "alpha cannot be None"),
        (made(family="ctrl", parameters='{"frequencies": [1, "a"]}'), "frequencies cannot be"),
        (made(family="known", parameters="{}"), "does not fit its family"),
        (made({"pixels": torch.zeros(1)}), "keeps no tensor 'pixels'"),
        (made({"size": torch.zeros(1)}), "keeps no tensor 'size'"),
    ],
    # The library orders a header as it likes: bytes are no names.
    ids=lambda value: value if isinstance(value, str) else "content",
)
def test_refusals(file, content, words):
    path = file(content)
    with pytest.raises(TriggerError, match=words) as error:
        load(path)
    assert str(path) in str(error.value)


def test_missing_files_and_folders(tmp_path):
    for path in (tmp_path / "none.safetensors", tmp_path):
        with pytest.raises(TriggerError, match="cannot be read"):
            load(path)


def test_whole_numbers_do_for_fractions(file):
    assert load(file(made(family="ctrl", parameters='{"magnitude": 70}')))[0] == Ctrl(70)
