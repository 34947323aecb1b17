import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from refusals import refused
from torch import nn

from formats import Architecture, Head, InputSpec, Manifest, Model, Source
from formats import Preprocessing as Hint
from wiper_cli.images.decode import Geometry
from wiper_cli.images.folder import read_folder
from wiper_cli.images.preprocessing import CANDIDATES, Flags, doubt, prepare, require_finite, resolve, shape
from wiper_cli.images.splits import Part
from wiper_cli.verdict import ExitCode

IMAGENET = CANDIDATES[3]["ImageNet"]


class Brightness(nn.Module):
    """Two classes: is the mean of the normalised image above ``level``? Takes any size of 4 pixels and more."""

    def __init__(self, channels=3, level=0.0, at_least=4):
        super().__init__()
        self.head = nn.Linear(channels, 2)
        self.at_least = at_least
        with torch.no_grad():
            self.head.weight.copy_(torch.tensor([-1.0, 1.0]).unsqueeze(1).expand(2, channels) / channels)
            self.head.bias.copy_(torch.tensor([level, -level]))

    def forward(self, x):
        if min(x.shape[2:]) < self.at_least:
            raise RuntimeError("images are too small")
        return self.head(x.mean((2, 3)))


def model_of(network, channels=3, size=(None, None), hint=None, classes=2, names=None):
    return Model(
        source=Source("m", b""), manifest=Manifest("safetensors", {}), network=network.eval(), tensors={},
        head=Head("head.weight", "head.bias", channels, classes), classes=classes,
        architecture=Architecture("brightness", "made here"), input=InputSpec(channels, *size),
        class_names=names, preprocessing=hint,
    )  # fmt: skip


def images_of(levels, channels, size):
    draw = np.random.default_rng(0)
    shape_ = (*size, channels) if channels > 1 else size
    return [np.clip(draw.normal(level, 4, shape_), 0, 255).astype(np.uint8) for level in levels]


def save(folder, dark, light, channels=3, size=(8, 8), flat=False, count=60):
    for name, level in {"0": dark, "1": light}.items():
        place = folder if flat else folder / name
        place.mkdir(parents=True, exist_ok=True)
        for i, pixels in enumerate(images_of([level] * count, channels, size)):
            Image.fromarray(pixels).save(place / f"{name}_{i:02}.png")
    return read_folder(folder, 2)


def test_flags_win_over_everything(tmp_path):
    hint = Hint(mean=(0.1,) * 3, std=(0.2,) * 3, size=(16, 16), resize=18, origin="config.json")
    folder = save(tmp_path / "c", 100, 160)
    flags = Flags((0.5,), (0.25, 0.25, 0.5), (8, 8), "squash", "bicubic")
    done = prepare(model_of(Brightness(), hint=hint), folder, flags).preprocessing
    assert done.as_dict() == {
        "size": [8, 8], "resize": "squash", "crop": None, "interpolation": "bicubic", "channels": "rgb",
        "mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.5],
        "origin": "Input 8x8, as --input-size says. Mean and std as given by --mean and --std.",
        "margin": None, "candidates": [],
    }  # fmt: skip


def test_a_model_that_scales_whole_numbers_itself_is_given_them(tmp_path):
    """Nothing beside it or usual elsewhere is tried: 0..255 is what it takes."""
    hint = Hint(*IMAGENET, origin="config.json")
    model = model_of(Brightness(level=130.0), hint=hint)
    model.input = replace(model.input, whole=True)
    folder = save(tmp_path / "c", 100, 160)
    done = prepare(model, folder).preprocessing
    assert (done.mean, done.std) == CANDIDATES[3]["0..255"]
    assert "scales them itself" in done.origin
    with refused("scales them itself; leave out --mean and --std", ExitCode.USAGE):
        prepare(model, folder, Flags(mean=(0.5,), std=(0.5,)))


def test_hint_of_the_file(tmp_path):
    hint = Hint(IMAGENET[0], IMAGENET[1], (16, 12), 18, "bicubic", "config.json")
    done = prepare(model_of(Brightness(), hint=hint), save(tmp_path / "c", 100, 160)).preprocessing
    assert (done.mean, done.std) == IMAGENET
    assert done.as_dict()["size"] == done.as_dict()["crop"] == [16, 12]
    assert (done.as_dict()["resize"], done.geometry.interpolation) == (18, "bicubic")
    assert "config.json" in done.origin


@pytest.mark.parametrize("hint", [Hint((0.5,) * 4, (0.5,) * 4), Hint((0.5,) * 3, (0.0,) * 3), Hint(resize=4)])
def test_hint_that_cannot_be_right_is_passed_over(tmp_path, hint):
    done = prepare(model_of(Brightness(), hint=hint), save(tmp_path / "c", 100, 160)).preprocessing
    assert done.candidates


@pytest.mark.parametrize(("name", "dark", "light"), [("ImageNet", 105, 125), ("-1..1", 120, 140)])
def test_chosen_by_accuracy_with_its_margin(tmp_path, name, dark, light):
    # The border between the two grey levels is right for one normalisation only.
    folder = save(tmp_path / "c", dark, light)
    done = prepare(model_of(Brightness()), folder).preprocessing
    assert (done.mean, done.std) == CANDIDATES[3][name]
    accuracy = dict(done.candidates)
    assert set(accuracy) == set(CANDIDATES[3])
    assert accuracy[name] == max(accuracy.values()) > 0.9
    rest = max(value for other, value in accuracy.items() if other != name)
    assert done.margin == pytest.approx(accuracy[name] - rest)
    assert name in done.origin
    assert "select part" in done.origin


def test_a_network_that_normalises_for_itself_on_0_to_255(tmp_path):
    folder = save(tmp_path / "c", 90, 200)
    done = prepare(model_of(Brightness(level=150.0)), folder).preprocessing
    assert done.std == CANDIDATES[3]["0..255"][1]


@pytest.mark.parametrize(("wrong", "taken"), [(3, "0..1"), (30, "0..255")])
def test_pixels_of_0_to_255_have_to_win_by_more_than_chance(wrong, taken):
    """As a LeNet without batch norm, which answers nearly alike at both scales: ``wrong`` of 60 images it knows in
    0..255 and not in 0..1."""

    class Scaled(nn.Module):
        def forward(self, x):
            bright = x.mean((1, 2, 3))
            light = bright > 100 if x.max() > 3 else (bright > 0.6) & (x.min() >= 0)
            return nn.functional.one_hot(light.long(), 2).float()

    labels = torch.arange(60) % 2
    images = (20 + 200 * labels.view(-1, 1, 1, 1).expand(-1, 3, 8, 8)).to(torch.uint8)
    images[1 : 2 * wrong : 2] = 120
    done = resolve(model_of(Scaled()), Part(images, labels), Geometry(3, 8, 8), Flags())
    assert (done.mean, done.std) == CANDIDATES[3][taken]
    assert done.margin == pytest.approx(wrong / 60 * (1 if taken == "0..255" else -1))
    assert ("within the error" in done.origin) == (taken == "0..1")


def test_grey_model(tmp_path):
    folder = save(tmp_path / "c", 20, 60, channels=1)
    prepared = prepare(model_of(Brightness(1), 1), folder)
    assert prepared.clean.fit.images.shape[1:] == (1, 8, 8)
    assert prepared.preprocessing.mean == CANDIDATES[1]["MNIST"][0]
    assert len(prepared.preprocessing.candidates) == len(CANDIDATES[1])


def test_unknown_channel_count_is_found_by_trying(tmp_path):
    folder = save(tmp_path / "c", 20, 60)
    geometry, _ = shape(model_of(Brightness(1), None), folder, Flags())
    assert geometry.channels == 1


def test_size_that_the_model_asks_for(tmp_path):
    folder = save(tmp_path / "c", 100, 160)
    geometry, why = shape(model_of(Brightness(), size=(20, 24)), folder, Flags(resize="crop"))
    assert (geometry.height, geometry.width, geometry.resize) == (20, 24, "crop")
    assert "the model asks for" in why


def test_size_of_the_images_themselves(tmp_path):
    folder = save(tmp_path / "c", 100, 160, size=(10, 14))
    geometry, why = shape(model_of(Brightness()), folder, Flags())
    assert (geometry.height, geometry.width) == (10, 14)
    assert "the images themselves" in why
    assert "scaled" not in why
    Image.new("RGB", (5, 5)).save(tmp_path / "c" / "0" / "x.png")
    assert "scaled" in shape(model_of(Brightness()), read_folder(tmp_path / "c", 2), Flags())[1]


def test_images_without_a_common_size(tmp_path):
    for side in range(8, 20):
        Image.new("RGB", (side, side)).save(tmp_path / f"{side}.png")
    geometry, why = shape(model_of(Brightness()), read_folder(tmp_path, 2), Flags())
    assert (geometry.height, geometry.width) == (224, 224)
    assert "usual size" in why


def test_network_that_refuses_the_images_own_size(tmp_path):
    folder = save(tmp_path / "c", 100, 160)
    geometry, why = shape(model_of(Brightness(at_least=30)), folder, Flags())
    assert (geometry.height, geometry.width) == (224, 224)
    assert "unlike the images' own size" in why
    with refused(r"does not run on images of 8x8 .*too small.*--input-size", ExitCode.USAGE):
        shape(model_of(Brightness(at_least=30)), folder, Flags(size=(8, 8)))
    with refused("does not run", ExitCode.NO_VERDICT):
        shape(model_of(Brightness(at_least=900)), folder, Flags())


def test_other_channel_counts_are_refused(tmp_path):
    with refused("4 channels", ExitCode.NO_VERDICT):
        shape(model_of(Brightness(4), 4), save(tmp_path / "c", 100, 160), Flags())


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (Flags(mean=(0.5,)), "go together"),
        (Flags(std=(0.5,)), "go together"),
        (Flags((0.5, 0.5), (0.5,)), "--mean has 2 numbers and the model 3"),
        (Flags((0.5,), (0.5, 0.0, 0.5)), "greater than 0"),
        (Flags((0.5,), (float("nan"),)), "greater than 0"),
    ],
)
def test_flags_that_do_not_fit(tmp_path, flags, sentence):
    geometry, _ = shape(model_of(Brightness()), save(tmp_path / "c", 100, 160), Flags())
    part = Part(torch.zeros(1, 3, 8, 8, dtype=torch.uint8), torch.zeros(1, dtype=torch.long))
    with refused(sentence, ExitCode.USAGE):
        resolve(model_of(Brightness()), part, geometry, flags)


def test_unlabelled_folder_needs_flags(tmp_path):
    folder = save(tmp_path / "c", 105, 125, flat=True)
    with refused("Give --mean and --std", ExitCode.USAGE):
        prepare(model_of(Brightness()), folder)
    prepared = prepare(model_of(Brightness()), folder, Flags(*IMAGENET))
    assert set(prepared.clean.report.labels.tolist()) == {0, 1}
    logits = prepared.classifier.logits(prepared.clean.report.images)
    assert torch.equal(logits.argmax(1), prepared.clean.report.labels)


def test_unlabelled_folder_where_the_choice_does_not_matter(tmp_path):
    folder = save(tmp_path / "c", -100, 355, flat=True)
    prepared = prepare(model_of(Brightness(level=0.1)), folder)
    assert prepared.preprocessing.mean == (0.0, 0.0, 0.0)
    assert "same predictions" in prepared.preprocessing.origin


def test_unlabelled_folder_of_one_predicted_class(tmp_path):
    folder = save(tmp_path / "c", 200, 220, flat=True)
    with refused("takes all images for class 1", ExitCode.NO_VERDICT):
        prepare(model_of(Brightness()), folder, Flags(*IMAGENET))


def test_answers_that_are_not_finite():
    require_finite(torch.zeros(24, 2))
    logits = torch.zeros(24, 2)
    logits[3, 1], logits[5, 0] = float("nan"), float("inf")
    with refused("NaN or infinity on 2 of 24", ExitCode.NO_VERDICT):
        require_finite(logits)


def test_doubt_when_the_model_is_no_better_than_chance():
    assert "right on 50 of 100 images, no better than chance (50.0 %)" in doubt(50, [50, 50], [50, 50])
    assert "right on 55 of 100" in doubt(55, [50, 50], [90, 10])
    assert doubt(80, [50, 50], [50, 50]) == ""
    # All images in one class: as often right as that class is common.
    assert doubt(80, [80, 20], [100, 0])
    # As often right, but by looking.
    assert doubt(80, [80, 20], [60, 40]) == ""
    assert doubt(0, [10] * 10, [10] * 10)


def test_head_only_models_work(tmp_path):
    class Runtime:
        def features_and_logits(self, x):
            return x.mean((2, 3)), Brightness()(x).detach()

    model = replace(model_of(Brightness()), network=None, runtime=Runtime())
    prepared = prepare(model, save(tmp_path / "c", 105, 125))
    assert (prepared.preprocessing.mean, prepared.preprocessing.std) == IMAGENET
    json.dumps(prepared.preprocessing.as_dict())


def described(mean, std, **more):
    return Hint((mean,) * 3, (std,) * 3, origin="config.json", **more)


def test_a_description_that_the_images_bear_out_stands(tmp_path):
    # The border between the grey levels is where ImageNet's numbers put it.
    folder = save(tmp_path / "c", 105, 125)
    done = prepare(model_of(Brightness(), hint=Hint(*IMAGENET, origin="config.json")), folder).preprocessing
    assert ((done.mean, done.std), done.doubt, done.settled) == (IMAGENET, "", True)
    assert "from config.json" in done.origin
    # Close to a usual one: no trigger shows under one and not under the other.
    near = described(0.47, 0.24)
    done = prepare(model_of(Brightness(), hint=near), folder).preprocessing
    assert (done.mean, done.doubt, done.settled) == ((0.47,) * 3, "", True)


def test_a_description_that_is_clearly_worse_gives_way(tmp_path):
    folder = save(tmp_path / "c", 105, 125)
    done = prepare(model_of(Brightness(), hint=described(0.0, 4.0)), folder).preprocessing
    assert (done.mean, done.std) == IMAGENET
    assert done.settled
    assert "ImageNet is right on 24 of 24 images, the description on 12" in done.doubt
    assert "in place of those from config.json" in done.origin
    assert dict(done.candidates) == {"as described": 0.5, "ImageNet": 1.0}


def test_a_description_that_is_merely_as_good_decides_nothing(tmp_path):
    """Accuracy does not tell std 2 from std 1; what shows under one may not show under the other."""
    folder = save(tmp_path / "c", 40, 250)
    model = model_of(Brightness(level=0.2), hint=described(0.0, 2.0))
    done = prepare(model, folder).preprocessing
    assert not done.settled
    assert (done.mean[0], done.std[0]) == (0.0, 2.0)
    assert "nothing decides" in done.doubt
    assert "--preprocessing FILE" in done.doubt


def test_a_description_cannot_be_checked_without_labels(tmp_path):
    folder = save(tmp_path / "c", 105, 125, flat=True)
    done = prepare(model_of(Brightness(), hint=Hint(*IMAGENET, origin="config.json")), folder).preprocessing
    assert (done.mean, done.settled) == (IMAGENET[0], False)
    assert "images without labels cannot check them" in done.doubt


def test_a_described_crop_that_does_not_fit_gives_way(tmp_path):
    class Frame(Brightness):
        """Looks at the border alone."""

        def forward(self, x):
            return super().forward(torch.cat([x[..., :1, :], x[..., -1:, :]], 2).repeat(1, 1, 4, 1))

    folder = tmp_path / "c"
    for name, level in {"0": 100, "1": 160}.items():
        (folder / name).mkdir(parents=True)
        for i in range(60):
            pixels = np.full((16, 16, 3), 128, np.uint8)
            pixels[[0, -1]] = level + i % 8
            Image.fromarray(pixels).save(folder / name / f"{i:02}.png")
    hint = described(0.5, 0.5, size=(16, 16), resize=32)
    done = prepare(model_of(Frame(), hint=hint), read_folder(folder, 2)).preprocessing
    assert done.geometry.resize == "squash"
    assert "does not fit the images" in done.doubt
    flags = Flags(size=(16, 16), short_side=32, mean=(0.5,), std=(0.5,), file="--preprocessing")
    done = prepare(model_of(Frame()), read_folder(folder, 2), flags).preprocessing
    assert (done.geometry.short_side, done.doubt) == (32, "")


@pytest.fixture
def file(tmp_path):
    def write(content):
        path = tmp_path / "own.json"
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return path

    return write


def test_a_file_of_the_user_wins_over_what_lies_beside_the_model(tmp_path, file):
    said = {
        "image_mean": [0.5] * 3, "image_std": [0.5, 0.5, 0.25], "resample": 3, "size": {"shortest_edge": 10},
        "crop_size": {"height": 8, "width": 8},
    }  # fmt: skip
    flags = Flags.of_file(file(said))
    model = model_of(Brightness(), hint=described(0.0, 2.0, size=(16, 16), resize=20))
    done = prepare(model, save(tmp_path / "c", 100, 160), flags).preprocessing
    assert done.as_dict() == {
        "size": [8, 8], "resize": 10, "crop": [8, 8], "interpolation": "bicubic", "channels": "rgb",
        "mean": [0.5] * 3, "std": [0.5, 0.5, 0.25], "margin": None, "candidates": [],
        "origin": "Input 8x8, as --preprocessing says. Mean and std as given by --preprocessing.",
    }  # fmt: skip
    assert (done.doubt, done.settled) == ("", True)
    assert Flags.of_file(file({"do_normalize": False, "size": 8})).std == (1.0,)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("{", "no JSON"), ("[" * 200_000, "no JSON"), ("[1]", "neither mean and std nor a size"),
        ({"architecture": "resnet18"}, "neither mean and std nor a size"),
        ({"mean": [0.5]}, "only one of mean and std"), ({"mean": [0.5], "std": ["x"]}, "only one of mean and std"),
        ({"mean": [0.5], "std": [0.5], "interpolation": "magic"}, "the interpolation 'magic'"),
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_followed_is_refused(content, sentence, file):
    with refused(sentence, ExitCode.USAGE):
        Flags.of_file(file(content))


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with refused("cannot be read: No such file", ExitCode.USAGE):
        Flags.of_file(tmp_path / "none.json")


class FirstColour(nn.Module):
    """Two classes: is the first of three colours stronger than the last?"""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(3, 2)
        with torch.no_grad():
            self.head.weight.copy_(torch.tensor([[1.0, 0.0, -1.0], [-1.0, 0.0, 1.0]]))
            self.head.bias.zero_()

    def forward(self, x):
        return self.head(x.mean((2, 3)))


def coloured(folder, first):
    """Class 0 has more of the ``first`` colour (0 red, 2 blue), class 1 of the other; noise hides it in some images."""
    draw = np.random.default_rng(0)
    for label in range(2):
        (folder / str(label)).mkdir(parents=True)
        for i in range(100):
            pixels = draw.normal(128, 5, (8, 8, 3))
            pixels[:, :, first] += 30 * (1 - 2 * label) + draw.normal(0, 15)
            Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(
                folder / str(label) / f"{i:03}.png"
            )
    return read_folder(folder, 2)


def test_blue_first_is_found_by_accuracy(tmp_path):
    prepared = prepare(model_of(FirstColour()), coloured(tmp_path / "blue", 2))
    assert prepared.preprocessing.bgr
    assert prepared.classifier.model.bgr
    assert prepared.preprocessing.as_dict()["channels"] == "bgr"
    assert "blue first" in prepared.preprocessing.origin
    right = prepared.classifier.answers(prepared.clean.fit.images) == prepared.clean.fit.labels
    assert float(right.double().mean()) > 0.7
    assert not prepare(model_of(FirstColour()), coloured(tmp_path / "red", 0)).preprocessing.bgr


def test_blue_first_by_option(tmp_path):
    folder = coloured(tmp_path / "red", 0)
    for flags in (Flags(channel_order="bgr"), Flags((0.5,), (0.5,), channel_order="bgr")):
        prepared = prepare(model_of(FirstColour()), folder, flags)
        assert prepared.preprocessing.bgr
        right = prepared.classifier.answers(prepared.clean.fit.images) == prepared.clean.fit.labels
        assert float(right.double().mean()) < 0.3


def test_a_described_order_of_channels_stands_where_images_bear_it_out(tmp_path):
    hint = Hint((0.5,) * 3, (0.5,) * 3, origin="preprocessor_config.json", bgr=True)
    stands = prepare(model_of(FirstColour(), hint=hint), coloured(tmp_path / "blue", 2)).preprocessing
    assert (stands.bgr, stands.doubt) == (True, "")
    falls = prepare(model_of(FirstColour(), hint=hint), coloured(tmp_path / "red", 0)).preprocessing
    assert not falls.bgr
    assert "do not beat the usual ones" in falls.doubt
