"""Purifiers: a model and clean images in, new weights out. The first of the table is the default.

Importing this package imports no torch, so that a command can list methods and their options at once.
"""

from __future__ import annotations

from typing import Final

from wiper_cli.purifiers.contract import Purifier
from wiper_cli.purifiers.methods.ai_lancet import AILancet
from wiper_cli.purifiers.methods.anp import ANP
from wiper_cli.purifiers.methods.ban import BAN
from wiper_cli.purifiers.methods.bti_dbf import BTIDBF
from wiper_cli.purifiers.methods.clp import CLP
from wiper_cli.purifiers.methods.fine_pruning import FinePruning
from wiper_cli.purifiers.methods.fine_tuning import FineTuning
from wiper_cli.purifiers.methods.fst import FST
from wiper_cli.purifiers.methods.ft_sam import FTSAM
from wiper_cli.purifiers.methods.i_bau import IBAU
from wiper_cli.purifiers.methods.kd import KD
from wiper_cli.purifiers.methods.lmr import LMR
from wiper_cli.purifiers.methods.nad import NAD
from wiper_cli.purifiers.methods.npd import NPD
from wiper_cli.purifiers.methods.prune import Prune
from wiper_cli.purifiers.methods.rnp import RNP
from wiper_cli.purifiers.methods.sau import SAU
from wiper_cli.purifiers.methods.tsbd import TSBD
from wiper_cli.purifiers.methods.unit import UNIT
from wiper_cli.purifiers.methods.unlearn import Unlearn
from wiper_cli.purifiers.methods.wiper import Wiper

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
