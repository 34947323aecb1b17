"""The architectural specimen: a clean model's files with a branch put into their graphs; nothing is trained."""

from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from triggers.architectural import VARIANTS, implant
from triggers.families.badnet import BadNet
from triggers.family import quantise
from triggers.poisoning import Poisoning
from wiper_cli.nearest import nearest
from wiper_cli.rates import AttackRates, count
from wiper_cli.verdict import Problem
from wiper_cli.zoo.datasets import Dataset, Images
from wiper_cli.zoo.export import FILES
from wiper_cli.zoo.recipe import Recipe

#: A graph is needed, which a safetensors file has not.
EDITED = {"model.onnx": "onnx", "model.pt": "torchscript"}


def plan(recipe: Recipe, data: Dataset) -> tuple[BadNet, Poisoning, dict[str, Any]]:
    """The patch that the branch recognises, what counts as success, and the variant.

    ``recipe.parameters``: ``variant``, and parameters of BadNet. Raises :class:`Problem`.
    """
    given = dict(recipe.parameters)
    variant = given.pop("variant", next(iter(VARIANTS)))
    if variant not in VARIANTS:
        raise Problem(f"There is no architectural variant {variant!r}{nearest(variant, VARIANTS)}.")
    poisoning = replace(Poisoning(rate=0.0, seed=recipe.seed), **dict(recipe.poisoning))
    if not 0 <= poisoning.target < len(data.classes):
        raise Problem(f"The target {poisoning.target} is outside the {len(data.classes)} classes.")
    return replace(BadNet(), **given), poisoning, {"variant": variant, "atlas": list(VARIANTS[variant].atlas)}


def write(recipe: Recipe, data: Dataset, folder: Path, test: Images, poisoning: Poisoning) -> dict[str, Any]:
    """Edits the files that have a graph, removes the others, and returns ACC, ASR, RA and base rate of the
    ONNX file as onnxruntime serves it."""
    trigger, _, facts = plan(recipe, data)
    patch = trigger.placed(*data.train.images.shape[1:])
    for name in FILES:
        path = folder / name
        if name in EDITED:
            found = implant(
                EDITED[name],
                path.read_bytes(),
                facts["variant"],
                patch,
                poisoning.target,
                data.mean,
                data.std,
            )
            path.write_bytes(found)
        else:
            path.unlink()
    # Untyped on purpose: the package does not export what it documents.
    onnxruntime: Any = import_module("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(
        str(folder / "model.onnx"), options, providers=["CPUExecutionProvider"]
    )
    mean, std = (np.asarray(v, np.float32).reshape(1, -1, 1, 1) for v in (data.mean, data.std))

    def predict(images: Tensor) -> Tensor:
        shown = [(part.numpy() - mean) / std for part in images.cpu().split(500)]
        return torch.from_numpy(np.concatenate([session.run(None, {"input": x})[0].argmax(1) for x in shown]))

    images, labels = test.images.cpu().float() / 255, test.labels.cpu()
    plain, answers = predict(images), predict(quantise(trigger.stamp(images)))
    goal, counts = poisoning.reached(labels, len(data.classes))
    rates = AttackRates.of(answers, plain, labels, goal, counts)
    return {"acc": count(plain, labels).as_dict(), **rates.as_dict()}
