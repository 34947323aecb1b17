"""What each metric costs beside BS, how stable it is, and whether it finds the units that the trigger uses.

    python -m benchmarks.salience_cost --model ZOO/SPECIMEN --clean ZOO/clean/cifar10 [--images 500] [--rounds 3]

Cost in processor seconds, side by side in one run, one thread on the CPU: the pass that computes the features,
each metric on these cached features, and the paper's way through the whole network. Ratios are to BS with its
pass, since nobody has features for nothing; ``after_pass`` is the metric alone over BS alone. Integrated
gradients through the whole network is measured at ``--steps``. Shapley through the whole network is *not run
to its end*: the seconds of ``--evaluations`` accuracies are measured and multiplied by the number of accuracies
that the same settings and seed needed on cached features, where the game is the same. The paper gives neither
the steps nor the permutations behind its 10.76x and 968.17x (appendix A.1, Table 3); what its ratio would buy
here stands beside ours, and how well so few permutations agree with many.

Quality, on ``--images`` images and on all: agreement of two halves of the images, rank correlation of the metrics,
and how the lowest half of the units does against an oracle that stamps the true trigger (chance 0.5).
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.common import write_result
from formats import open_model, read_source
from triggers.family import quantise
from triggers.store import load as load_trigger
from wiper_cli.classifier import Classifier
from wiper_cli.images.decode import Geometry
from wiper_cli.images.folder import read_folder
from wiper_cli.images.splits import Part
from wiper_cli.salience import METRICS
from wiper_cli.salience.integrated_gradients import conductance
from wiper_cli.salience.oracle import activation_change, precision, target_contribution
from wiper_cli.salience.settings import IntegratedGradients, Random, Shapley
from wiper_cli.salience.shapley import CachedGame, NetworkGame, estimate
from wiper_cli.salience.stream import stability

PAPER = {"bs": 1.0, "integrated-gradients": 10.76, "shapley": 968.17}
DRAWS = 200


def seconds(work: Callable[[], object]) -> float:
    """Of the processor: with one thread, what else the machine does counts little."""
    start = time.process_time()
    work()
    return time.process_time() - start


def cost(classifier: Classifier, part: Part, option: argparse.Namespace) -> dict[str, Any]:
    """Seconds of everything, medians over the rounds, and their ratios."""
    weight = classifier.head()[0]
    head = (*classifier.features(part.images), part.labels, weight)
    pixels = classifier.as_float(part.images)
    line = IntegratedGradients(steps=option.steps)
    work: dict[str, Callable[[], Any]] = {"pass": lambda: classifier.features(part.images)}
    work |= {name: (lambda metric=metric: metric(*head)) for name, metric in METRICS.items()}
    work["conductance"] = lambda: conductance(classifier.features, pixels, part.labels, weight, line)
    first = {name: run() for name, run in work.items()}  # loads modules, warms caches
    rounds = [{name: seconds(run) for name, run in work.items()} for _ in range(option.rounds)]
    taken = {name: statistics.median(one[name] for one in rounds) for name in work}

    settings = Shapley()
    cached = estimate(CachedGame(*head, settings.baseline), settings)
    game = NetworkGame(classifier.features, part.images, part.labels, weight, settings.baseline)
    game.restart(1)
    order = torch.randperm(game.units, generator=torch.Generator().manual_seed(0))[: option.evaluations]
    each = []
    for unit in order:
        game.remove(unit[None])
        each.append(seconds(lambda: game.value(torch.ones(1, dtype=torch.bool))))
    evaluation = statistics.median(each)

    base = taken["pass"] + taken["bs"]
    network = {"integrated-gradients": taken["conductance"], "shapley": evaluation * cached.evaluations}
    return {
        "settings": {
            "images": len(part),
            "units": game.units,
            "rounds": option.rounds,
            "integrated_gradients_steps": {"cached": IntegratedGradients().steps, "network": option.steps},
        },
        "seconds": {
            "pass": round(taken["pass"], 4),
            "after_pass": {name: round(taken[name], 6) for name in METRICS},
            "whole_network": {name: round(value, 2) for name, value in network.items()},
        },
        "ratio_to_bs": {
            "paper": PAPER,
            "whole_network": {name: round(value / base, 2) for name, value in network.items()},
            "cached_with_pass": {name: round((taken["pass"] + taken[name]) / base, 3) for name in METRICS},
            "cached_after_pass": {name: round(taken[name] / taken["bs"], 2) for name in METRICS},
        },
        "rank_correlation_of_integrated_gradients_through_the_whole_network": {
            name: round(stability(first["conductance"], first[name]).rank_correlation, 3)
            for name in ("integrated-gradients", "bs")
        },
        "shapley": {
            "whole_network_is": "extrapolated",
            "evaluations_measured": len(each),
            "seconds_per_evaluation": [round(value, 4) for value in each],
            "evaluations_needed": cached.evaluations,
            "permutations": cached.permutations,
            "units_undecided": cached.undecided,
            "mean_half_width": round(float(cached.half_width.mean()), 5),
            "permutations_that_the_papers_ratio_would_buy": round(PAPER["shapley"] / game.units, 1),
        },
    }


def halves(head: tuple[Tensor, Tensor, Tensor, Tensor]) -> list[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Even and odd images; they are in random order."""
    return [(*(x[start::2] for x in head[:3]), head[3]) for start in (0, 1)]


def against(value: Tensor, oracle: Tensor) -> dict[str, float]:
    """How the lowest half of the units does: chance is 0.5 for both."""
    units = len(value)
    half, few = units // 2, max(1, units // 8)
    return {
        "lowest_half_in_top_half": round(precision(value, oracle, half), 3),
        "top_eighth_in_lowest_half": round(precision(value, oracle, half, few) * half / few, 3),
    }


def quality(
    head: tuple[Tensor, Tensor, Tensor, Tensor], stamped: tuple[Tensor, Tensor], target: int
) -> dict[str, Any]:
    """Stability, agreement and precision of every metric on these images."""
    features, logits, labels, weight = head
    other = labels != target
    plain, moved = features[other], stamped[0][other]
    oracles = {
        "activation_change": activation_change(plain, moved),
        "target_contribution": target_contribution(plain, moved, weight, target),
    }
    values = {name: metric(*head) for name, metric in METRICS.items()}
    pairs = {
        name: stability(*(metric(*half) for half in halves(head)))
        for name, metric in METRICS.items()
        if name != "random"
    }
    chance = [METRICS["random"](*head, Random(seed)) for seed in range(DRAWS)]
    spread = {
        name: sorted(against(value, oracle)["top_eighth_in_lowest_half"] for value in chance)
        for name, oracle in oracles.items()
    }
    everyone = values | oracles
    return {
        "images": len(labels),
        "accuracy": round(float((logits.argmax(1) == labels).double().mean()), 4),
        "asr": round(float((stamped[1][other].argmax(1) == target).double().mean()), 4),
        "two_halves": {
            name: {
                "rank_correlation": round(one.rank_correlation, 3),
                "lowest_half_overlap": round(one.lowest_half_overlap, 3),
            }
            for name, one in pairs.items()
        },
        "precision": {
            name: {oracle: against(value, change) for oracle, change in oracles.items()}
            for name, value in values.items()
        },
        "top_eighth_by_chance_5_to_95_percent": {
            name: [found[DRAWS // 20], found[-1 - DRAWS // 20]] for name, found in spread.items()
        },
        "rank_correlation": {
            name: {
                second: round(stability(value, compared).rank_correlation, 3)
                for second, compared in everyone.items()
            }
            for name, value in everyone.items()
        },
        "shapley_rank_correlation": {
            "with_another_seed": rank_with(head, values["shapley"], Shapley(seed=1)),
            "without_truncation": rank_with(head, values["shapley"], Shapley(floor=-1)),
            "with_8_permutations": rank_with(head, values["shapley"], Shapley(seed=1, permutations=8)),
            "with_100_permutations": rank_with(head, values["shapley"], Shapley(seed=1, permutations=100)),
            "with_baseline_zero": rank_with(head, values["shapley"], Shapley(baseline="zero")),
        },
    }


def rank_with(head: tuple[Tensor, Tensor, Tensor, Tensor], value: Tensor, settings: Shapley) -> float:
    return round(stability(value, METRICS["shapley"](*head, settings)).rank_correlation, 3)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--clean", type=Path, required=True)
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--evaluations", type=int, default=5)
    option = parser.parse_args()
    torch.set_num_threads(1)
    manifest = json.loads((option.model / "manifest.json").read_text())
    model = open_model(read_source(option.model / "model.safetensors"))
    classifier = Classifier(model, tuple(manifest["mean"]), tuple(manifest["std"]))
    whole = read_folder(option.clean, len(manifest["classes"]), manifest["classes"]).load(Geometry(3, 32, 32))
    order = torch.randperm(len(whole), generator=torch.Generator().manual_seed(0))
    whole = Part(whole.images[order], whole.labels[order])
    few = Part(whole.images[: option.images], whole.labels[: option.images])

    trigger, _ = load_trigger(option.model / "trigger.safetensors")
    head = (*classifier.features(whole.images), whole.labels, classifier.head()[0])
    stamped = classifier.features(quantise(trigger.stamp(classifier.as_float(whole.images))))
    sizes = (len(few), len(whole))
    write_result(
        "salience_cost",
        {
            "specimen": {key: manifest[key] for key in ("recipe", "trigger", "figures")},
            "cost": cost(classifier, few, option),
            "quality": [
                quality(
                    (*(x[:size] for x in head[:3]), head[3]),
                    (stamped[0][:size], stamped[1][:size]),
                    manifest["planting"]["target"],
                )
                for size in sizes
            ],
        },
    )


if __name__ == "__main__":
    main()
