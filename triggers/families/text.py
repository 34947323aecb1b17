"""Text: a word in small letters, as a watermark or a subtitle carries.

T(x) is that of :mod:`triggers.painted`, on the strokes of letters in a face of 3x5 pixels that is ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Final

from triggers.errors import TriggerError
from triggers.painted import Painted
from triggers.patch import place_of
from triggers.poisoning import Poisoning

#: Five rows of three pixels, each an octal digit.
LETTERS: Final = dict(
    zip(
        "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789",
        (
            "25755", "65656", "34443", "65556", "74647", "74644", "34553", "55755", "72227", "11152", "55655", "44447",
            "57755", "65555", "25552", "65644", "25563", "65655", "34216", "72222", "55557", "55552", "55775", "55255",
            "55222", "71247", "75557", "26227", "61247", "61216", "55711", "74616", "34757", "71222", "75757", "75716",
        ),
        strict=True,
    )
)  # fmt: skip


@dataclass(frozen=True)
class Text(Painted):
    """``word``: capital letters, digits and blanks. ``scale``: pixels a stroke is thick."""

    name: ClassVar[str] = "text"
    title: ClassVar[str] = "Text: a word in small letters"
    source: ClassVar[str] = "letters of our own; the mask of arXiv 1708.06733"
    poisoning: ClassVar[Poisoning] = Poisoning(rate=0.05)

    word: str = "SALE"
    scale: int = 1

    def figure(self, height: int, width: int) -> Sequence[tuple[int, int]]:
        """See :class:`triggers.painted.Painted`."""
        scale, cells = self.scale, []
        for place, letter in enumerate(self.word):
            if letter != " " and letter not in LETTERS:
                raise TriggerError(f"There is no letter {letter!r}; A to Z, 0 to 9 and blanks are known.")
            for y, row in enumerate(LETTERS.get(letter, "00000")):
                cells += [(y, 4 * place + x) for x in range(3) if int(row) >> (2 - x) & 1]
        if not cells or scale < 1:
            raise TriggerError("A text needs a letter, and strokes of at least one pixel.")
        tall, wide = 5 * scale, (4 * len(self.word) - 1) * scale
        top, left = place_of(tall, wide, self.corner, self.margin, height, width)
        thick = range(scale)
        return [(top + scale * y + i, left + scale * x + j) for y, x in cells for i in thick for j in thick]
