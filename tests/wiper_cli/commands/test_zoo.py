import json

import pytest
from colours import write_images


@pytest.fixture
def colours(tmp_path):
    write_images(tmp_path / "colours" / "train", 30, 0)
    write_images(tmp_path / "colours" / "test", 6, 1)
    return tmp_path / "colours"


def options(colours, out):
    shared = ("--arch", "resnet10-patch-w4", "--epochs", 1, "-p", "schedule.batch=16")
    return *shared, "--data", colours, "-o", out


def test_train_makes_the_model_and_its_twin(wiper, colours, tmp_path):
    arguments = (*options(colours, tmp_path / "zoo"), "--attack", "badnet", "--rate", 0.2, "-q")
    settings = (
        "-p", "size=2", "-p", 'pattern="white"', "-p", "planting.target=1", "-p", "poisoning.cover=0.1",
    )  # fmt: skip
    code, out, _ = wiper("zoo", "train", *arguments, *settings)
    assert code == 0
    name = "colours-resnet10-patch-w4-badnet-rate0.2-target1-s1"
    assert out.strip().endswith(name)
    manifest = json.loads((tmp_path / "zoo" / name / "manifest.json").read_text())
    assert manifest["trigger"]["parameters"].items() >= {"size": 2, "pattern": "white"}.items()
    # Either word on the command line, the file's word in files.
    assert manifest["recipe"]["planting"] == {"rate": 0.2, "target": 1, "cover": 0.1}
    assert manifest["planting"]["in_words"].endswith("10 % cover images")
    assert manifest["schedule"]["batch"] == 16
    assert (tmp_path / "zoo" / "colours-resnet10-patch-w4-clean-s1" / "model.onnx").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (("--attack", "badnett"), 2, "no attack 'badnett'; the nearest is 'badnet'"),
        (("--arch", "resnet10-path-w4"), 2, "no architecture 'resnet10-path-w4'"),
        (
            ("--attack", "sticker"),
            2,
            "colours-resnet10-patch-w4-sticker-s1: held out for judging; give --judge",
        ),
        (("--attack", "sticker", "--judge", "--target", 3), 2, "target 3 is outside the 3 classes 0..2"),
        (("--attack", "badnet", "--target", 3), 2, "target 3 is outside the 3 classes 0..2"),
        (("--attack", "sinusoid", "--rate", 0.9), 2, "images of class 0; there are"),
        (("--attack", "badnet", "--labelling", "all-to-al"), 2, "no labelling 'all-to-al'"),
        (("--rate", 0.1), 2, "A clean model takes no rate"),
        (("-p", "epochs"), 2, "'epochs' is not KEY=VALUE"),
        (("--data", "nowhere"), 2, "neither a folder of images nor a known data set"),
    ],
)
def test_bad_input_is_one_sentence(wiper, colours, tmp_path, arguments, code, sentence):
    found, out, err = wiper("zoo", "train", *options(colours, tmp_path / "zoo"), "-q", *arguments)
    assert (found, out) == (code, "")
    assert sentence in err
    assert len(err.strip().splitlines()) == 1
    left = [path.name for path in (tmp_path / "zoo").glob("*")] if (tmp_path / "zoo").exists() else []
    assert not [name for name in left if "badnet" in name or "partial" in name]


def test_build_goes_on_and_leaves_a_table(wiper, colours, tmp_path):
    suite = tmp_path / "mine.toml"
    suite.write_text(
        f'[defaults]\ndata = "{colours.as_posix()}"\narch = "resnet10-patch-w4"\n'
        'schedule = { epochs = 1, batch = 16 }\n[[models]]\nattack = ["badnet", "blend"]\n'
    )
    zoo = tmp_path / "zoo"
    assert wiper("zoo", "build", suite, "-o", zoo, "--list")[1].count("missing") == 3
    code, out, err = wiper("zoo", "build", suite, "-o", zoo, "--only", "badnet")
    assert (code, out) == (0, f"2 of 3 specimens of mine stand in {zoo}\n")
    assert "[2/2] colours-resnet10-patch-w4-badnet-s1: ACC " in err
    assert wiper("zoo", "build", suite, "-o", zoo, "--list")[1].count("stands") == 2
    assert wiper("zoo", "build", suite, "-o", zoo, "-q")[1] == f"3 of 3 specimens of mine stand in {zoo}\n"
    assert len(json.loads((zoo / "mine.json").read_text())["specimens"]) == 3
    code, _, err = wiper("zoo", "build", suite, "-o", zoo, "--only", "nothing")
    assert code == 2
    assert "No specimen of the suite mine is called like 'nothing'." in err


def test_a_specimen_that_cannot_be_made_is_said_and_the_rest_built(wiper, colours, tmp_path):
    suite = tmp_path / "mine.toml"
    suite.write_text(
        f'[defaults]\ndata = "{colours.as_posix()}"\narch = "resnet10-patch-w4"\n'
        'schedule = { epochs = 1, batch = 16 }\n[[models]]\nattack = "badnet"\ntarget = [0, 7]\n'
    )
    code, out, err = wiper("zoo", "build", suite, "-o", tmp_path / "zoo")
    assert code == 3
    assert out.startswith("2 of 3 specimens")
    assert "The target 7 is outside" in err


def test_typos_in_a_suite_name_the_nearest(wiper, tmp_path):
    (tmp_path / "mine.toml").write_text("[[model]]\n")
    assert "the nearest is 'models'" in wiper("zoo", "build", tmp_path / "mine.toml", "-o", tmp_path)[2]
    assert "the nearest is 'tiny'" in wiper("zoo", "build", "tinny", "-o", tmp_path)[2]
