"""From a picture to what the model wants: size, mean and standard deviation, and where each comes from.

Flags, or a file of the user's, come first. What the model or a file beside it says is its author's word: it stands
where labelled images bear it out (:mod:`~wiper_cli.images.description`). Then comes what the network accepts and what
gives the highest accuracy on the select part among the usual candidates. Without labels there is no accuracy, and the
choice is left to the user unless it makes no difference.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor

from formats import Model
from formats.identify import MAX_SIDECAR
from formats.processors import preprocessing_in
from wiper_cli.classifier import Classifier
from wiper_cli.images.decode import RESAMPLE, Geometry, Interpolation
from wiper_cli.images.description import (
    BARELY,
    CLEARLY,
    FIRST,
    Numbers,
    clearly_better,
    differs_much,
    lead,
    rival,
)
from wiper_cli.images.folder import CleanFolder
from wiper_cli.images.order import ordered
from wiper_cli.images.splits import Clean, Part
from wiper_cli.progress import Progress, silent
from wiper_cli.rates import wilson
from wiper_cli.scratch import read_whole
from wiper_cli.verdict import ExitCode, Problem

#: Name → mean and standard deviation for images in 0..1; among equals the first is taken.
CANDIDATES: Mapping[int, Mapping[str, tuple[Numbers, Numbers]]] = {
    3: {
        "0..1": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
        "ImageNet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        "-1..1": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
        "CIFAR-10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
        "CIFAR-100": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
        "0..255": ((0.0, 0.0, 0.0), (1 / 255, 1 / 255, 1 / 255)),
    },
    1: {
        "0..1": ((0.0,), (1.0,)),
        "-1..1": ((0.5,), (0.5,)),
        "MNIST": ((0.1307,), (0.3081,)),
        "Fashion-MNIST": ((0.2860,), (0.3530,)),
        "ImageNet, grey": ((0.449,), (0.226,)),
        "0..255": ((0.0,), (1 / 255,)),
    },
}
#: What networks seldom take that do not say so: it has to win by more than chance.
_RARE = "0..255"
#: Of networks that take whole numbers, there is no choice.
WHOLE = {channels: options[_RARE] for channels, options in CANDIDATES.items()}
#: What networks from Caffe take, blue first.
CAFFE = (103.939 / 255, 116.779 / 255, 123.68 / 255), (1 / 255, 1 / 255, 1 / 255)
#: Images of the select part on which candidates are compared.
COMPARED = 500
#: Without labels: the least agreement between candidates' predictions at which the choice does not matter.
AGREEMENT = 0.99
#: Sizes tried, in this order, on a network that takes any size but not that of the images.
SIZES = ((224, 224), (32, 32), (64, 64), (28, 28), (256, 256), (299, 299))
#: Images of one size are taken as they are up to this many pixels a side.
OWN_SIZE = 512


@dataclass(frozen=True)
class Flags:
    """What the user said; ``None`` where nothing. ``size``: height, width in pixels. ``mean``, ``std``: one
    number for all channels or one each, for images in 0..1. ``file``: the option that says it all, where one does: then
    no other description counts."""

    mean: Numbers | None = None
    std: Numbers | None = None
    size: tuple[int, int] | None = None
    resize: Literal["squash", "crop"] | None = None
    interpolation: Interpolation | None = None
    short_side: int | None = None
    scaled: tuple[int, int] | None = None
    floor: bool = False
    channel_order: Literal["rgb", "bgr"] | None = None
    file: str = ""

    @classmethod
    def of_file(cls, path: Path) -> "Flags":
        """A file of the user's, like Hugging Face's ``preprocessor_config.json`` or timm's ``config.json``.

        Raises :class:`Problem` for one that cannot be read, says nothing, or asks for what is not done here.
        """
        text = read_whole(path, MAX_SIDECAR)
        try:
            content = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise Problem(f"--preprocessing: {path} is no JSON.") from error
        found = preprocessing_in(content, path.name) if isinstance(content, dict) else None
        if found is None:
            raise Problem(f"--preprocessing: {path} gives neither mean and std nor a size.")
        if (found.mean is None) != (found.std is None):
            raise Problem(f"--preprocessing: {path} gives only one of mean and std as a list of numbers.")
        if (method := content.get("interpolation", "bilinear")) not in [*RESAMPLE]:
            raise Problem(f"--preprocessing: {path} names the interpolation {str(method)[:40]!r}.")
        return cls(
            found.mean,
            found.std,
            found.size,
            None,
            cast(Interpolation | None, found.interpolation),
            found.resize,
            found.scaled,
            found.floor,
            "bgr" if found.bgr else None,
            "--preprocessing",
        )


@dataclass(frozen=True)
class Preprocessing:
    """The outcome. ``margin``: accuracy of the chosen candidate less that of the best different one, -1..1. ``doubt``:
    a sentence where the description beside the model did not stand, or not alone; ``settled``: whether something did.
    """

    geometry: Geometry
    mean: Numbers
    std: Numbers
    origin: str
    margin: float | None = None
    candidates: Sequence[tuple[str, float]] = ()
    doubt: str = ""
    settled: bool = True
    bgr: bool = False

    def as_dict(self) -> dict[str, Any]:
        """The report's ``preprocessing`` mapping."""
        size = [self.geometry.height, self.geometry.width]
        crop = self.geometry.resize == "crop"
        return {
            "size": size,
            "resize": (self.geometry.short_side or list(self.geometry.scaled or ()) or "cover")
            if crop
            else "squash",
            "crop": size if crop else None,
            "interpolation": self.geometry.interpolation,
            "channels": "bgr" if self.bgr else "rgb" if self.geometry.channels == 3 else "grey",
            "mean": list(self.mean),
            "std": list(self.std),
            "origin": self.origin,
            "margin": self.margin,
            "candidates": [{"name": name, "accuracy": value} for name, value in self.candidates],
        }


@dataclass(frozen=True)
class Prepared:
    """Model and images, ready for each other. ``folder``: in the order of classes that was found."""

    folder: CleanFolder
    classifier: Classifier
    clean: Clean
    preprocessing: Preprocessing


def prepare(
    model: Model,
    folder: CleanFolder,
    flags: Flags = Flags(),
    device: torch.device | str = "cpu",
    seed: int = 0,
    max_images: int | None = None,
    progress: Progress = silent,
) -> Prepared:
    """Decodes the three parts, settles the preprocessing, and fills in predicted labels where there are none.

    Raises :class:`Problem` when the network takes no size that was tried, when mean and std cannot be found
    without labels, or when the images are too few.
    """
    if flags.file:
        model = replace(model, preprocessing=None)
    geometry, origin = shape(model, folder, flags)
    clean = folder.clean(geometry, seed, max_images, progress=progress)
    folder = _ordered(model, folder, clean.select, geometry.channels, flags, device)
    clean = folder.clean(geometry, seed, max_images, progress=progress)
    chosen = resolve(model, clean.select, geometry, flags, device)
    better = _usual_geometry(
        model, folder, flags, chosen, clean.select, folder.split(seed, max_images), device
    )
    if better is not None:
        geometry, origin = better
        clean = folder.clean(geometry, seed, max_images, progress=progress)
        chosen = resolve(model, clean.select, geometry, flags, device)
        said = "The size or crop that is described beside the model does not fit the images; the usual one was taken."
        chosen = replace(chosen, doubt=f"{said} {chosen.doubt}".rstrip())
    chosen = replace(chosen, origin=f"{origin} {chosen.origin}")
    classifier = Classifier(replace(model, bgr=chosen.bgr), chosen.mean, chosen.std, device)
    if not folder.labelled:
        clean = Clean(*(predicted(classifier, part) for part in (clean.fit, clean.select, clean.report)))
        everything = torch.cat([clean.fit.labels, clean.select.labels, clean.report.labels])
        if bool((everything == everything[0]).all()):
            raise Problem(
                f"{folder.path}: the model takes all images for class {int(everything[0])}; images of at "
                "least 2 classes are needed.",
                ExitCode.NO_VERDICT,
            )
    return Prepared(folder, classifier, clean, chosen)


def _ordered(
    model: Model, folder: CleanFolder, part: Part, channels: int, flags: Flags, device: torch.device | str
) -> CleanFolder:
    """The folder with the order of its classes settled, under every normalisation that may be meant."""
    hint = model.preprocessing
    if channels == 3 and (flags.channel_order == "bgr" or (hint and hint.bgr)):
        model = replace(model, bgr=True)
    usual = dict(CANDIDATES[channels])
    if model.input.whole:
        usual = {"0..255": WHOLE[channels]}
    elif flags.mean is not None and flags.std is not None:
        usual = {"given": (_each(flags.mean, channels, "--mean"), _each(flags.std, channels, "--std"))}
    elif hint and hint.mean and hint.std and _usable(hint.mean, hint.std, channels):
        usual["described"] = _each(hint.mean, channels, "mean"), _each(hint.std, channels, "std")
    return ordered(model, folder, part, usual, device)


def _usual_geometry(
    model: Model,
    folder: CleanFolder,
    flags: Flags,
    chosen: Preprocessing,
    described: Part,
    parts: Mapping[str, Tensor],
    device: torch.device | str,
) -> tuple[Geometry, str] | None:
    """What pictures would be made into without the description, where that is clearly better on labelled images."""
    if model.preprocessing is None or not folder.labelled:
        return None
    try:
        usual, origin = shape(replace(model, preprocessing=None), folder, flags)
    except Problem:
        return None
    if usual == chosen.geometry:
        return None
    part = folder.load(usual, parts["select"][:FIRST])
    classifier = Classifier(replace(model, bgr=chosen.bgr), chosen.mean, chosen.std, device)
    ours, theirs = (
        classifier.answers(one.images[:FIRST], batch=64) == one.labels[:FIRST] for one in (described, part)
    )
    if len(ours) != len(theirs) or not clearly_better(theirs, ours):
        return None
    return usual, origin


def predicted(classifier: Classifier, part: Part) -> Part:
    """The part with the classifier's own predictions as labels."""
    return Part(part.images, classifier.answers(part.images, batch=64))


def shape(model: Model, folder: CleanFolder, flags: Flags) -> tuple[Geometry, str]:
    """What pictures are made into, and a sentence on why; tries the network once on the outcome.

    Raises :class:`Problem` when the network refuses the size, or takes neither 1 nor 3 channels.
    """
    hint = model.preprocessing
    declared = model.input.channels
    if declared not in (None, 1, 3):
        raise Problem(
            f"The model takes {declared} channels; pictures have 1 (grey) or 3 (colour).", ExitCode.NO_VERDICT
        )
    fixed = (model.input.height, model.input.width)
    sizes, why = _sizes(flags, fixed, hint.size if hint else None, folder)
    style: dict[str, Any] = {}
    before = flags if flags.short_side or flags.scaled else hint
    short_side = flags.short_side or (hint.resize if hint else None)
    scaled = flags.scaled or (hint.scaled if hint else None)
    if before and (short_side or scaled) and flags.resize != "squash":
        style = {"resize": "crop", "short_side": short_side, "scaled": scaled, "floor": before.floor}
    elif flags.resize:
        style = {"resize": flags.resize}
    interpolation = flags.interpolation or (hint.interpolation if hint else None)
    if interpolation in RESAMPLE:
        style["interpolation"] = interpolation
    reason = ""
    for height, width in sizes:
        for channels in (declared,) if declared else (3, 1):
            geometry = Geometry(channels, height, width, **style)
            if geometry.short_side is not None and geometry.short_side < max(height, width):
                geometry = replace(geometry, short_side=None)
            if geometry.scaled is not None and (geometry.scaled[0] < height or geometry.scaled[1] < width):
                geometry = replace(geometry, resize="squash", scaled=None)
            refused = refusal(model, geometry)
            if not refused:
                said = (
                    why
                    if (height, width) == sizes[0]
                    else "which the network accepts, unlike the images' own size"
                )
                return geometry, f"Input {height}x{width}, {said}."
            reason = reason or refused
    height, width = sizes[0]
    raise Problem(
        f"The network does not run on images of {height}x{width} ({why}): {reason} Give --input-size HxW.",
        ExitCode.USAGE if flags.size else ExitCode.NO_VERDICT,
    )


def _sizes(
    flags: Flags, fixed: tuple[int | None, int | None], hinted: tuple[int, int] | None, folder: CleanFolder
) -> tuple[Sequence[tuple[int, int]], str]:
    """Sizes to try, best first, and the reason for the first."""
    if flags.size:
        return [flags.size], f"as {flags.file or '--input-size'} says"
    if fixed[0] and fixed[1]:
        return [(fixed[0], fixed[1])], "the size that the model asks for"
    if hinted:
        return [hinted], "as the file beside the model says"
    seen = folder.sizes()
    common, count = max(seen.items(), key=lambda item: (item[1], item[0]), default=(SIZES[0], 0))
    if count <= sum(seen.values()) / 2 or max(common) > OWN_SIZE:
        return SIZES, "a usual size: neither the network nor the images settle one"
    others = "" if count == sum(seen.values()) else "; images of other sizes are scaled to it"
    return [common, *(size for size in SIZES if size != common)], f"the size of the images themselves{others}"


def refusal(model: Model, geometry: Geometry) -> str:
    """ "" when the network runs on this size, else what it says to it in one sentence."""
    trial = torch.zeros(2, geometry.channels, geometry.height, geometry.width)
    try:
        with torch.no_grad():
            if model.network is not None:
                parameter = next(model.network.parameters(), None)
                logits = model.network(trial.to(parameter.device) if parameter is not None else trial)
            else:
                assert model.runtime is not None
                _, logits = model.runtime.features_and_logits(trial)
    except Exception as error:  # what a network raises on a wrong size is anybody's guess
        return " ".join(str(error).split())[:200].rstrip(".") + "."
    if tuple(logits.shape) != (2, model.classes):
        return f"it answers with {list(logits.shape)} instead of {[2, model.classes]}."
    return ""


def resolve(
    model: Model, part: Part, geometry: Geometry, flags: Flags, device: torch.device | str = "cpu"
) -> Preprocessing:
    """Mean and standard deviation, by flags, hint, or accuracy on ``part`` (labels -1: unlabelled).

    Raises :class:`Problem` when numbers do not fit the channels, or when nothing decides.
    """
    channels = geometry.channels
    blue = flags.channel_order == "bgr" and channels == 3
    if (flags.mean is None) != (flags.std is None):
        raise Problem("--mean and --std go together; give both or neither.")
    if model.input.whole:
        if flags.mean is not None and not flags.file:
            raise Problem(
                "The model takes pixels as they are and scales them itself; leave out --mean and --std."
            )
        said = "Pixels as they are, 0..255: the model scales them itself."
        return Preprocessing(geometry, *WHOLE[channels], said, bgr=blue)
    if flags.mean is not None and flags.std is not None:
        mean, std = _each(flags.mean, channels, "--mean"), _each(flags.std, channels, "--std")
        if not all(value > 0 for value in std):
            raise Problem("--std must be greater than 0 in every channel.")
        said = f"Mean and std as given by {flags.file or '--mean and --std'}."
        return Preprocessing(geometry, mean, std, said, bgr=blue)
    hint = model.preprocessing
    if hint and hint.mean and hint.std and _usable(hint.mean, hint.std, channels):
        mean, std = _each(hint.mean, channels, "mean"), _each(hint.std, channels, "std")
        origin = hint.origin or "the model file"
        described = Preprocessing(
            geometry, mean, std, f"Mean and std from {origin}.", bgr=(blue or hint.bgr) and channels == 3
        )
        return _checked(model, described, origin, part, device)
    options = CANDIDATES[channels]
    images, labels = part.images[:COMPARED], part.labels[:COMPARED]
    guesses = {
        name: Classifier(replace(model, bgr=blue), mean, std, device).answers(images, batch=64)
        for name, (mean, std) in options.items()
    }
    if bool((labels < 0).any()):
        return replace(_agreed(geometry, options, guesses), bgr=blue)
    accuracy = [(name, _share(guess == labels)) for name, guess in guesses.items()]
    ranked = sorted(accuracy, key=lambda item: -item[1])
    (name, best), (other, next_best) = ranked[:2]
    how = (
        "the one with the highest accuracy"
        if best > next_best
        else "the first of several equally accurate ones"
    )
    # A network that the scale hardly matters to takes both; that one is rare, and what training would make of it is not
    # small.
    if name == _RARE and lead(guesses[other] == labels, guesses[name] == labels) <= BARELY:
        name, best, next_best = other, next_best, best
        how = f"the best but for {_RARE}, which is better within the error only,"
    mean, std = options[name]
    origin = f"Mean and std of {name}: of {len(options)} usual candidates {how} on {len(images)} images of the select "
    origin += "part."
    margin = best - next_best
    chosen = Preprocessing(geometry, mean, std, origin, margin, accuracy, bgr=blue)
    if channels != 3 or flags.channel_order:
        return chosen
    return _blue_first(model, chosen, guesses[name] == labels, images, labels, device)


def _blue_first(
    model: Model,
    chosen: Preprocessing,
    right: Tensor,
    images: Tensor,
    labels: Tensor,
    device: torch.device | str,
) -> Preprocessing:
    """The choice, or what beats it with the channels the other way round, as OpenCV and Caffe read them. ``right``:
    where the choice is, bool [N]."""
    flipped = replace(model, bgr=True)
    options = {**CANDIDATES[3], "Caffe": CAFFE}

    def asked(name: str, count: int) -> Tensor:
        answers = Classifier(flipped, *options[name], device).answers(images[:count], batch=64)
        return answers == labels[:count]

    few = {name: asked(name, FIRST) for name in options}
    name = max(few, key=lambda one: int(few[one].sum()))
    if lead(right[:FIRST], few[name]) <= 0:
        return chosen
    found = asked(name, len(images))
    ahead = lead(right, found)
    if ahead <= BARELY:
        return chosen
    said = f"With blue first the model is right on {int(found.sum())} of {len(images)} images, with red first on "
    said += f"{int(right.sum())}."
    if ahead <= CLEARLY:
        doubt = f"{said} Nothing decides; if you know which is right, say so with --channel-order."
        return replace(chosen, doubt=doubt, settled=False)
    mean, std = options[name]
    accuracy = [*chosen.candidates, (f"{name}, blue first", _share(found))]
    origin = f"Mean and std of {name}, blue first. {said}"
    return replace(
        chosen,
        mean=mean,
        std=std,
        origin=origin,
        margin=accuracy[-1][1] - _share(right),
        candidates=accuracy,
        bgr=True,
    )


def _checked(
    model: Model, described: Preprocessing, origin: str, part: Part, device: torch.device | str
) -> Preprocessing:
    """The description, or what took its place."""
    usual = CANDIDATES[described.geometry.channels]
    said = f"The mean and std that {origin} describes are its author's word, and"
    if bool((part.labels < 0).any()):
        if not described.bgr and not any(
            differs_much(described.mean, described.std, numbers) for numbers in usual.values()
        ):
            return described
        doubt = (
            f"{said} images without labels cannot check them: a normalisation that hides a trigger looks the same. "
            "If they are right, say so with --preprocessing FILE, or give class sub-folders."
        )
        return replace(described, doubt=doubt, settled=False)
    found = rival(model, described.mean, described.std, usual, part, device, described.bgr)
    if found is None:
        return described
    better = found.right > found.described
    taken = found.name if better else "the described one"
    choice = f"{taken} was taken" + ("" if found.clearly else ", and nothing decides")
    doubt = (
        f"{said} do not beat the usual ones: {found}. They differ much, and {choice}. If you know which is right, say "
        "so with --preprocessing FILE."
    )
    accuracy = (("as described", found.described / found.images), (found.name, found.right / found.images))
    chosen = replace(described, candidates=accuracy, doubt=doubt, settled=found.clearly)
    if not better:
        return chosen
    origin = f"Mean and std of {found.name}, in place of those from {origin}."
    return replace(chosen, mean=found.mean, std=found.std, origin=origin, bgr=False)


def _agreed(
    geometry: Geometry, options: Mapping[str, tuple[Numbers, Numbers]], guesses: Mapping[str, Tensor]
) -> Preprocessing:
    first = next(iter(options))
    least = min(_share(guess == guesses[first]) for guess in guesses.values())
    if least < AGREEMENT:
        raise Problem(
            "Without labels nothing tells which normalisation the model expects, and its predictions depend "
            f"on it: the usual ones agree on {least:.0%} of the images. Give --mean and --std, or class "
            "sub-folders."
        )
    mean, std = options[first]
    origin = f"Mean and std of {first}: the usual candidates give the same predictions."
    return Preprocessing(geometry, mean, std, origin)


def _usable(mean: Numbers, std: Numbers, channels: int) -> bool:
    """A hint is the model's word: one that cannot be right is passed over."""
    return len(mean) in (1, channels) and len(std) in (1, channels) and all(value > 0 for value in std)


def _each(numbers: Numbers, channels: int, what: str) -> Numbers:
    if len(numbers) not in (1, channels):
        raise Problem(f"{what} has {len(numbers)} numbers and the model {channels} channels.")
    return tuple(numbers) * (channels if len(numbers) == 1 else 1)


def _share(right: Tensor) -> float:
    return float(right.double().mean()) if len(right) else 0.0


def require_finite(logits: Tensor) -> None:
    """Raises :class:`Problem` where the network answers with NaN or infinity; logits [N,K]."""
    bad = int((~logits.isfinite()).any(1).sum())
    if bad:
        raise Problem(
            f"The network answers with NaN or infinity on {bad} of {len(logits)} images and cannot be "
            "examined.",
            ExitCode.NO_VERDICT,
        )


def doubt(right: int, counts: Sequence[int], answers: Sequence[int]) -> str:
    """Words for ``right`` answers that are no better than chance: than as many answers of each class, given without
    looking at the images (the expected agreement of Cohen's kappa). ``counts``, ``answers``: images of each class, and
    how often it was answered. Empty otherwise."""
    n = sum(counts)
    chance = sum(count * given for count, given in zip(counts, answers, strict=True)) / n**2
    if wilson(right, n)[0] > chance:
        return ""
    return f"the model is right on {right} of {n} images, no better than chance ({100 * chance:.1f} %)"
