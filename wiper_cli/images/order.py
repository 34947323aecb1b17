"""Which class each folder is, where names do not say: loaders count folders as strings, as numbers, or naturally.

Each way is tried on labelled images; one that is clearly better than every other stands, and the first already where no
other may as well be the right one.
"""

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from formats import Model
from wiper_cli.classifier import Classifier
from wiper_cli.images.description import BARELY, CLEARLY, MOST, Numbers, lead
from wiper_cli.images.folder import CleanFolder
from wiper_cli.images.splits import Part


def ordered(
    model: Model,
    folder: CleanFolder,
    part: Part,
    usual: Mapping[str, tuple[Numbers, Numbers]],
    device: torch.device | str,
) -> CleanFolder:
    """The folder in the order that ``part`` bears out under the best of the ``usual`` normalisations, and a sentence on
    how; as it is, with a doubt, where no order is clearly better than all others. ``part``: of this folder."""
    if len(folder.orders) < 2:
        return folder
    images, labels = part.images[:MOST], part.labels[:MOST]
    answers = [Classifier(model, *numbers, device).answers(images, batch=64) for numbers in usual.values()]
    right: dict[str, Tensor] = {}
    for order in folder.orders:
        wanted = folder.table(order)[labels]
        right[order] = max((one == wanted for one in answers), key=lambda hits: int(hits.sum()))
    best, *others = sorted(right, key=lambda order: -int(right[order].sum()))
    count = {order: int(hits.sum()) for order, hits in right.items()}
    said = f"of {len(images)} images of the select part {count[best]} are right if the folders are read in {best}, "
    said += ", ".join(f"{count[order]} in {order}" for order in others)
    needed = BARELY if best == next(iter(folder.orders)) else CLEARLY
    if any(lead(right[order], right[best]) <= needed for order in others):
        doubt = (
            f"Nothing decides which class each folder is: {said}. Name the folders for the model's "
            "classes, with --classes FILE where it has no names of its own, or give more images."
        )
        return replace(folder, doubt=doubt)
    margin = (count[best] - count[others[0]]) / len(images)
    origin = f"The labels are the folder names, read in {best}: {said}."
    return replace(folder.renumbered(best), origin=origin, margin=margin)
