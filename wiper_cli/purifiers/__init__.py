"""Purifiers: a model and clean images in, new weights out. The first of the table is the default.

Importing this package imports no torch, so that a command can list methods and their options at once.
"""

from __future__ import annotations

from typing import Final

from wiper_cli.purifiers.contract import Purifier
from wiper_cli.purifiers.settings import FineTuning, Unlearn, Wiper
from wiper_cli.purifiers.settings_field import ANP, BAN, BTIDBF, FST, FTSAM, LMR, NPD, RNP, SAU, TSBD, UNIT
from wiper_cli.purifiers.settings_rivals import CLP, IBAU, KD, NAD, AILancet, FinePruning, Prune

METHODS: Final[dict[str, type[Purifier]]] = {
    "unlearn": Unlearn,
    "wiper": Wiper,
    "fine-tuning": FineTuning,
    "fine-pruning": FinePruning,
    "kd": KD,
    "nad": NAD,
    "i-bau": IBAU,
    "ai-lancet": AILancet,
    "clp": CLP,
    "prune": Prune,
    "ft-sam": FTSAM,
    "fst": FST,
    "anp": ANP,
    "rnp": RNP,
    "sau": SAU,
    "npd": NPD,
    "bti-dbf": BTIDBF,
    "ban": BAN,
    "tsbd": TSBD,
    "unit": UNIT,
    "lmr": LMR,
}
