"""Attacks: for measuring a model and for making specimens; no defence may look in here.

    names()                     the families
    find("badnet")              its frozen dataclass; fields are the parameters
    find("badnet")().stamp(images)

Importing this package, or a family, imports no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from triggers.family import Trigger

#: Name → module and class.
FAMILIES: Mapping[str, tuple[str, str]] = {
    "badnet": ("triggers.badnet", "BadNet"),
    "blend": ("triggers.blend", "Blend"),
    "sinusoid": ("triggers.sinusoid", "Sinusoid"),
    "eta": ("triggers.eta", "Eta"),
    "regular": ("triggers.regular", "Regular"),
    "wanet": ("triggers.wanet", "WaNet"),
    "bpp": ("triggers.bpp", "Bpp"),
    "ctrl": ("triggers.frequency", "Ctrl"),
    "ftrojan": ("triggers.frequency", "FTrojan"),
    "tone": ("triggers.tone", "Tone"),
    "adap-blend": ("triggers.adap", "AdapBlend"),
    "adap-patch": ("triggers.adap", "AdapPatch"),
    "ia": ("triggers.universal", "Universal"),
    "low-frequency": ("triggers.low_frequency", "LowFrequency"),
    "trojannn": ("triggers.trojan", "TrojanNN"),
    "imc": ("triggers.imc", "IMC"),
    "logit-attack": ("triggers.logit", "LogitAttack"),
    "label-consistent": ("triggers.label_consistent", "LabelConsistent"),
    "salience-hiding": ("triggers.hiding", "SalienceHiding"),
    "issba": ("triggers.issba", "ISSBA"),
    "input-aware": ("triggers.input_aware", "InputAware"),
    "known": ("triggers.image", "Known"),
}


def names() -> tuple[str, ...]:
    """All families, in the order of the table."""
    return tuple(FAMILIES)


def find(name: str) -> type[Trigger]:
    """The class of a family; raises ``KeyError`` for an unknown name."""
    module, attribute = FAMILIES[name]
    found: type[Trigger] = getattr(import_module(module), attribute)
    return found
