"""Attacks: for measuring a model and for making specimens; no defence may look in here.

    names()                     the families
    find("badnet")              its frozen dataclass; fields are the parameters
    find("badnet")().stamp(images)

Importing this package, or a family, imports no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from triggers.family import Trigger

#: Name → module and class.
FAMILIES: Final[dict[str, tuple[str, str]]] = {
    "badnet": ("triggers.families.badnet", "BadNet"),
    "blend": ("triggers.families.blend", "Blend"),
    "sinusoid": ("triggers.families.sinusoid", "Sinusoid"),
    "eta": ("triggers.families.eta", "Eta"),
    "regular": ("triggers.families.regular", "Regular"),
    "wanet": ("triggers.families.wanet", "WaNet"),
    "bpp": ("triggers.families.bpp", "Bpp"),
    "ctrl": ("triggers.families.frequency", "Ctrl"),
    "ftrojan": ("triggers.families.frequency", "FTrojan"),
    "tone": ("triggers.families.tone", "Tone"),
    "adap-blend": ("triggers.families.adap", "AdapBlend"),
    "adap-patch": ("triggers.families.adap", "AdapPatch"),
    "ia": ("triggers.families.universal", "Universal"),
    "low-frequency": ("triggers.families.low_frequency", "LowFrequency"),
    "trojannn": ("triggers.families.trojan", "TrojanNN"),
    "imc": ("triggers.families.imc", "IMC"),
    "logit-attack": ("triggers.families.logit", "LogitAttack"),
    "label-consistent": ("triggers.families.label_consistent", "LabelConsistent"),
    "salience-hiding": ("triggers.families.hiding", "SalienceHiding"),
    "issba": ("triggers.families.issba", "ISSBA"),
    "input-aware": ("triggers.families.input_aware", "InputAware"),
    "shape": ("triggers.families.shape", "Shape"),
    "text": ("triggers.families.text", "Text"),
    "sticker": ("triggers.families.sticker", "Sticker"),
    "reflection": ("triggers.families.reflection", "Reflection"),
    "known": ("triggers.families.known", "Known"),
}


def names() -> tuple[str, ...]:
    """All families, in the order of the table."""
    return tuple(FAMILIES)


def find(name: str) -> type[Trigger]:
    """The class of a family; raises ``KeyError`` for an unknown name."""
    module, attribute = FAMILIES[name]
    found: type[Trigger] = getattr(import_module(module), attribute)
    return found


def join(name: str, module: str, attribute: str) -> None:
    """One more family, for as long as the process lives. Raises ``ValueError`` where the name is taken."""
    if name in FAMILIES:
        raise ValueError(f"the name {name} is taken")
    FAMILIES[name] = (module, attribute)
