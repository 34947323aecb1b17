"""Purifiers: a model and clean images in, new weights out. The first of the table is the default.

Importing this package, or the settings of a method, imports no torch, so that a command can list options at once.
"""

from typing import Final

from wiper_cli.purifiers.contract import Purifier
from wiper_cli.tables import Table

METHODS: Final[Table[type[Purifier]]] = Table(
    {
        "unlearn": "wiper_cli.purifiers.methods.unlearn:Unlearn",
        "wiper": "wiper_cli.purifiers.methods.wiper:Wiper",
        "fine-tuning": "wiper_cli.purifiers.methods.fine_tuning:FineTuning",
        "fine-pruning": "wiper_cli.purifiers.methods.fine_pruning:FinePruning",
        "kd": "wiper_cli.purifiers.methods.kd:KD",
        "nad": "wiper_cli.purifiers.methods.nad:NAD",
        "i-bau": "wiper_cli.purifiers.methods.i_bau:IBAU",
        "ai-lancet": "wiper_cli.purifiers.methods.ai_lancet:AILancet",
        "clp": "wiper_cli.purifiers.methods.clp:CLP",
        "prune": "wiper_cli.purifiers.methods.prune:Prune",
        "ft-sam": "wiper_cli.purifiers.methods.ft_sam:FTSAM",
        "fst": "wiper_cli.purifiers.methods.fst:FST",
        "anp": "wiper_cli.purifiers.methods.anp:ANP",
        "rnp": "wiper_cli.purifiers.methods.rnp:RNP",
        "sau": "wiper_cli.purifiers.methods.sau:SAU",
        "npd": "wiper_cli.purifiers.methods.npd:NPD",
        "bti-dbf": "wiper_cli.purifiers.methods.bti_dbf:BTIDBF",
        "ban": "wiper_cli.purifiers.methods.ban:BAN",
        "tsbd": "wiper_cli.purifiers.methods.tsbd:TSBD",
        "unit": "wiper_cli.purifiers.methods.unit:UNIT",
        "lmr": "wiper_cli.purifiers.methods.lmr:LMR",
    }
)
