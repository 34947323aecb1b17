"""Which of several outputs holds the logits: the one that is asked for, else the one that alone is called so, else the
one that is computed from all others, as logits are from an embedding. Never a guess."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence, Set
from typing import TYPE_CHECKING

from formats.errors import Ambiguous

if TYPE_CHECKING:
    from torch import Tensor

#: What the output of a classifier is called.
_USUAL = ("logits", "out")
_LOGITS = re.compile(r"logit|prob|softmax|^y$|^class(es|ifier|ification)?$|^scores?$|^predictions?$", re.I)


def chosen(
    widths: Mapping[str, int | None], wanted: str | None, made_from: Mapping[str, Set[str]] | None = None
) -> str:
    """The name of one of the outputs. ``widths``: name → number of columns, where known. ``made_from``: name → the
    others that it is computed from.

    Raises :class:`Ambiguous` where nothing decides or ``wanted`` is not there.
    """
    if wanted is not None:
        if wanted not in widths:
            raise Ambiguous(
                f"No output of the form [N, classes] is called {wanted!r}; there are: {listed(widths)}.",
                widths,
            )
        return wanted
    if len(widths) == 1:
        return next(iter(widths))
    called = [name for name in _USUAL if name in widths][:1] or [
        name for name in widths if _LOGITS.search(name)
    ]
    if len(called) == 1:
        return called[0]
    # Of the same width, the first may be what is served and the second a decoy.
    last = [
        name
        for name, others in (made_from or {}).items()
        if all(one == name or (one in others and widths[one] != widths[name]) for one in widths)
    ]
    if len(last) == 1:
        return last[0]
    raise Ambiguous(
        f"The model has {len(widths)} outputs and nothing tells which holds the logits: {listed(widths)}; name it with "
        "--logits NAME.",
        widths,
    )


def rows(output: Tensor, count: int) -> Tensor:
    """What a network gives for ``count`` images, with an axis for them also where it squeezed theirs or that of its
    only logit away: [N], [K] for one image, or one number → [N,K]. All else stays."""
    return output.reshape(count, -1) if output.ndim < 2 and output.numel() % count == 0 else output


def listed(widths: Mapping[str, int | None]) -> str:
    """Names with their widths, few enough for a sentence."""
    shown = [f"{name or 'the only one'} ({width or '?'} numbers)" for name, width in list(widths.items())[:8]]
    return ", ".join(shown) + (f" and {len(widths) - 8} more" if len(widths) > 8 else "")


def remark(name: str, outputs: Sequence[str]) -> str:
    """What is said where one of several was taken."""
    ignored = ", ".join([one for one in outputs if one != name][:8])
    return f"Of {len(outputs)} outputs {name!r} is taken for the logits; ignored: {ignored}."
