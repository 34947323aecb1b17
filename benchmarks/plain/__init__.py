"""Every method as one would write it down in plain PyTorch, for this one network: what ours is timed against.

The zoo's ResNet as an ``nn.Module`` with batch norm in eval mode, hooks where a layer is read, modules put in place
where one is changed, batches cut from a tensor. (network, clean images, settings) → trained in place.
"""

from collections.abc import Callable, Mapping
from typing import Any

from benchmarks.plain import adversarial, channels, tuning

PLAIN: Mapping[str, Callable[..., Any]] = {
    "unlearn": adversarial.unlearn,
    "wiper": tuning.wiper,
    "fine-tuning": tuning.fine_tuning,
    "fine-pruning": tuning.fine_pruning,
    "kd": tuning.kd,
    "nad": tuning.nad,
    "i-bau": adversarial.i_bau,
    "ai-lancet": tuning.ai_lancet,
    "prune": tuning.prune,
    "ft-sam": tuning.ft_sam,
    "fst": tuning.fst,
    "anp": channels.anp,
    "rnp": channels.rnp,
    "sau": adversarial.sau,
    "npd": adversarial.npd,
    "bti-dbf": adversarial.bti_dbf,
    "ban": channels.ban,
    "tsbd": tuning.tsbd,
    "unit": adversarial.unit,
    "lmr": tuning.lmr,
}
