"""Detectors: does the network behave as if it had a backdoor, towards which class, by what transform?

Importing this package, or the settings of a detector, imports no torch.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from wiper_cli.detectors.evidence import Detector
from wiper_cli.tables import Table, load

#: Those of a scan, in the order in which they run.
DETECTORS: Final[Table[type[Detector]]] = Table(
    {
        "max-margin": "wiper_cli.detectors.max_margin:MaxMargin",
        "warp-inversion": "wiper_cli.detectors.warp_inversion:WarpInversion",
        "square-probe": "wiper_cli.detectors.square_probe:SquareProbe",
        "shape-probe": "wiper_cli.detectors.shape_probe:ShapeProbe",
        "patch-inversion": "wiper_cli.detectors.patch_inversion:PatchInversion",
        "additive-inversion": "wiper_cli.detectors.additive_inversion:AdditiveInversion",
        "mask-inversion": "wiper_cli.detectors.mask_inversion:MaskInversion",
        "class-map": "wiper_cli.detectors.class_map:ClassMap",
    }
)

_OTHER_FILLS = ("white", "grey", "green", "blue", "magenta", "checker")

#: Name → module and class, and the settings in which a probe differs from the scan. A purifier trains
#: against what the scan found, so what judges it looks elsewhere: other sizes, places, fills, grids, starts.
#: ``targets`` is filled in with the suspects where a detector has it.
PROBES: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "squares elsewhere": (
        "wiper_cli.detectors.square_probe:SquareProbe",
        {
            "sides": (2, 3, 4, 6),
            "fills": _OTHER_FILLS,
            "step": 5,
            "offset": 2,
            "border": 2,
        },
    ),
    "margins from other starts": ("wiper_cli.detectors.max_margin:MaxMargin", {"starts": 8, "steps": 80}),
    "coarser warp": ("wiper_cli.detectors.warp_inversion:WarpInversion", {"grid": 4, "bound": 1.5}),
    "other shapes": ("wiper_cli.detectors.shape_probe:ShapeProbe", {}),
    "textured patches elsewhere": (
        "wiper_cli.detectors.patch_inversion:PatchInversion",
        {"places": 5, "kept": 3},
    ),
    "maps of classes elsewhere": (
        "wiper_cli.detectors.class_map:ClassMap",
        {"sides": (2, 3, 4, 6), "fills": _OTHER_FILLS, "step": 5, "offset": 2, "border": 2},
    ),
    "faint patterns from other starts": (
        "wiper_cli.detectors.additive_inversion:AdditiveInversion",
        {"steps": 30},
    ),
    "few pixels from other starts": (
        "wiper_cli.detectors.mask_inversion:MaskInversion",
        {"cells": 24, "per_target": 24},
    ),
}

#: Added to a run's seed for probes, so that no start is shared with the scan.
PROBE_SEED_OFFSET = 7919


def detector(name: str, **settings: Any) -> Detector:
    """One detector of :data:`DETECTORS` with ``settings`` over its defaults; KeyError if there is none."""
    return DETECTORS[name](**settings)


def probes(suspects: Sequence[int], **settings: Any) -> dict[str, Detector]:
    """Detectors that the purifier has not trained against, by name, looking for ``suspects`` where they can
    be told to. ``settings`` go to every probe. Run them with the seed plus
    :data:`PROBE_SEED_OFFSET`."""
    found = {}
    for name, (place, changes) in PROBES.items():
        probe: Any = load(place)
        aim = {"targets": tuple(suspects)} if hasattr(probe, "targets") else {}
        found[name] = probe(**changes, **aim, **settings)
    return found
