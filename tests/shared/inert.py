"""What a text may not hold, whoever chose its words."""

import re
import unicodedata

_HIDDEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}


def active(text: str) -> list[str]:
    """What terminals, eyes or runners of CI would act on: escape codes, bidi marks, what nobody sees, letters under
    piles of marks, lines that are commands, what is no UTF-8."""
    found = [c for c in set(text) - {"\n"} if unicodedata.category(c) in _HIDDEN]
    found += set(text) & set("\u034f\u115f\u3164\uffa0\u2800\ufe0f\U000e0100")
    found += re.findall("[\u0334\u0489]{5}", text)
    found += [line for line in text.splitlines() if line.lstrip().startswith("::")]
    return found + re.findall(r"##[\w.]*\[|section_(?:start|end):\d+:\w+\r", text)
