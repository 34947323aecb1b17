"""One metric on one specimen: every unit on clean and on triggered images, and how good the order is."""

import time
from typing import Any

from torch import Tensor

from wiper_cli.audit.explanation import SHARE, how_many, precisions, saliency_maps
from wiper_cli.bench.ground import Ground
from wiper_cli.classifier import Classifier
from wiper_cli.images.splits import Clean
from wiper_cli.salience import METRICS
from wiper_cli.salience.oracle import activation_change, target_contribution
from wiper_cli.salience.stream import correlation, lowest, stability

#: Shares of the lowest units that are compared with the oracle.
SHARES = (SHARE, 0.5)
#: Test images that Figure 2 averages over, clean and triggered.
SHOWN = 500


def scored(name: str, classifier: Classifier, clean: Clean, ground: Ground) -> dict[str, Any]:
    """Values of the metric ``name`` on the fit part, their agreement between its halves and with benign salience,
    seconds with the features at hand and for the forward pass; with a trigger, values on triggered test images
    labelled with its target, the precision of the lowest units against what the trigger moves, and attention maps."""
    metric, fit = METRICS[name], clean.fit
    began = time.perf_counter()
    features, logits = classifier.features(fit.images)
    forward = time.perf_counter() - began
    weight, labels = classifier.head()[0], fit.labels.to(features.device)
    began = time.perf_counter()
    values = metric(features, logits, labels, weight)
    seconds = time.perf_counter() - began
    halves = [metric(features[i::2], logits[i::2], labels[i::2], weight).cpu() for i in (0, 1)]
    agree = stability(*halves)
    bs = METRICS["bs"](features, logits, labels, weight)
    found: dict[str, Any] = {
        "forward_seconds": forward,
        "seconds": seconds,
        "images_seen": len(fit),
        "clean": values.tolist(),
        "rank_correlation": agree.rank_correlation,
        "lowest_half_overlap": agree.lowest_half_overlap,
        "rank_correlation_with_bs": correlation(values.cpu(), bs.cpu()),
    }
    if not ground.triggered:
        return found
    stamped, goal, counts = ground.triggered[0]
    chosen = counts.nonzero().flatten()[:SHOWN]
    plain = classifier.features(ground.test.images[chosen])
    moved = classifier.features(stamped[chosen])
    goals = goal[chosen].to(moved[0].device)
    change = activation_change(plain[0], moved[0]).cpu()
    target = int(goal[chosen].mode().values)
    adds = target_contribution(plain[0], moved[0], weight, target).cpu()
    triggered = metric(moved[0], moved[1], goals, weight)
    values = values.cpu()
    true = {"change": change, "contribution": adds}
    found |= {
        "triggered": triggered.tolist(),
        "precision": {str(share): precisions(values, true, share) for share in SHARES},
        "rank_correlation_with_change": correlation(values, -change),
        "attention": attention(classifier, stamped[chosen[:1]], values),
    }
    return found


def attention(classifier: Classifier, image: Tensor, values: Tensor) -> dict[str, Any] | None:
    """Where the lowest units and where all others look on one triggered image [1,C,H,W], largest 1; [H][W] each.
    ``None`` without gradients."""
    low = lowest(values, how_many(values))
    maps = saliency_maps(classifier, image, {"lowest": low, "others": ~low})
    if maps is None:
        return None
    rows = {name: found[0].tolist() for name, found in maps.items()}
    return {
        "image": image[0].tolist(),
        **{name: [[round(v, 4) for v in row] for row in found] for name, found in rows.items()},
    }
