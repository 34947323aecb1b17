"""``wiper-ignore.toml``: findings that somebody has looked at and answers for, each for one model and for some time.

    [[ignore]]
    rule = "WIPER-B03"
    model = "SHA-256 that the report gives as model.digest"
    class = 0                  # optional
    reason = "what was looked at, and why it may be deployed"
    owner = "who answers for it"
    expires = 2027-01-31       # the last day

Read only where it is named: a file that lies beside a model, or in a folder that came with one, may be the attacker's.
What is suppressed stays in every report and is told; a file that was refused unopened cannot be accepted at all.
"""

import datetime
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wiper_cli.commands.shared.document import Document
from wiper_cli.nearest import nearest
from wiper_cli.reports.plain import plain
from wiper_cli.rules import RULES, rule
from wiper_cli.scratch import read_table, read_whole, write_whole
from wiper_cli.verdict import Problem, Severity

#: Largest file in bytes, and days that a new entry holds.
MOST, DAYS = 1 << 20, 90
_KEYS = {"rule": str, "model": str, "reason": str, "owner": str, "expires": datetime.date}
_HEAD = "# Findings that are accepted (wiper scan --ignore). Say for each why, and who answers for it.\n"


@dataclass(frozen=True)
class Entry:
    """``expires``: the last day on which it holds. ``target``: the class it is limited to, if any."""

    rule: str
    model: str
    reason: str
    owner: str
    expires: datetime.date
    target: int | None = None

    def fits(self, finding: Mapping[str, Any]) -> bool:
        """Whether it speaks of this finding, in its model."""
        place = finding.get("place") or {}
        return self.rule == finding["rule"] and self.target in (None, place.get("class"))


@dataclass
class Ignores:
    """A file's entries and what came of them in one run."""

    path: Path
    entries: tuple[Entry, ...]
    today: datetime.date = field(default_factory=lambda: datetime.datetime.now(datetime.UTC).date())
    _used: set[Entry] = field(default_factory=set)

    @classmethod
    def read(cls, path: Path) -> "Ignores":
        """Raises :class:`Problem` with the first thing that is wrong."""
        return cls(path, tuple(_entry(where, table) for where, table in _listed(path)))

    def apply(self, document: Document, digest: str | None) -> None:
        """Marks what is suppressed in the findings of the model with ``digest``."""
        ours = [one for one in self.entries if one.model == digest]
        for finding in document["findings"]:
            fitting = [one for one in ours if one.fits(finding)]
            self._used |= {*fitting}
            if holding := [one for one in fitting if one.expires >= self.today]:
                by = max(holding, key=lambda one: one.expires)
                finding["suppressed"] = {
                    "reason": by.reason, "owner": by.owner, "expires": by.expires.isoformat(),
                }  # fmt: skip

    def tell(self, reports: Sequence[Document], last: bool = True) -> None:
        """Says in each report what came of the entries; those that are unused once the ``last`` model is done."""
        expired = [one for one in self.entries if one.expires < self.today]
        unused = [one for one in self.entries if one not in self._used and one.expires >= self.today]
        for report in reports:
            report["suppression"] = {
                "file": str(self.path),
                "suppressed": sum("suppressed" in finding for finding in report["findings"]),
                "expired": [_said(one) for one in expired],
                "unused": [_said(one) for one in unused if last],
            }


def text_of(path: Path) -> str:
    """The text of a file that entries can be added to, those of a new one where there is none.

    Raises :class:`Problem` for whatever is no such file; entries may lack a reason and an owner.
    """
    if not os.path.lexists(path):
        if not path.absolute().parent.is_dir():
            raise Problem(f"The folder of {path} does not exist.")
        return _HEAD
    for where, table in _listed(path):
        _entry(where, {**table, **{key: "?" for key in ("reason", "owner") if table.get(key) == ""}})
    return read_whole(path, MOST).decode()


def append(path: Path, found: Sequence[tuple[str, Document]], fail_on: str) -> int:
    """Adds to the file an entry for every failing finding that is not suppressed, of models by their digests; returns
    how many. Reason and owner are left empty, and the file is not read while they are."""
    expires = datetime.datetime.now(datetime.UTC).date() + datetime.timedelta(days=DAYS)
    bar, parts = Severity[fail_on.upper()], dict[str, None]()
    for digest, document in found:
        for finding in document["findings"]:
            if Severity[finding["severity"].upper()] >= bar and "suppressed" not in finding:
                target = (finding.get("place") or {}).get("class")
                limited = f"class = {target}\n" if isinstance(target, int) else ""
                entry = (
                    f"\n# {plain(document['model']['path'], 200)}: {plain(finding['message'], 300)}\n[[ignore]]\n"
                    f'rule = "{finding["rule"]}"\nmodel = "{digest}"\n{limited}reason = ""\nowner = ""\n'
                    f"expires = {expires}\n"
                )
                parts[entry] = None

    def whole() -> bytes:
        data = (text_of(path).rstrip("\n") + "\n" + "".join(parts)).encode()
        if len(data) > MOST:
            raise Problem(
                f"{path} would be larger than {MOST >> 20} MiB, and not be read; name another file."
            )
        return data

    if parts:
        write_whole(path, whole)  # what another run adds meanwhile stays
    return len(parts)


def _listed(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The entries of a file, each with the words for its place."""
    table = read_table(path, MOST)
    listed = table.pop("ignore", [])
    if table or not isinstance(listed, list) or not all(isinstance(one, dict) for one in listed):
        raise Problem(f"{path} holds no list of exceptions: entries [[ignore]] and nothing else.")
    for number, one in enumerate(listed, 1):
        yield f"{path}, entry {number}", one


def _entry(where: str, table: Mapping[str, Any]) -> Entry:
    given = dict(table)
    target = given.pop("class", None)
    for key, kind in _KEYS.items():
        value = given.pop(key, None)
        if type(value) is not kind or value == "" or (isinstance(value, str) and not value.strip()):
            what = "a date such as 2027-01-31" if key == "expires" else "text in quotes"
            raise Problem(f"{where}: {key} must be there, {what}.")
    if given:
        known = [*_KEYS, "class"]
        raise Problem(f"{where}: unknown key {min(given)!r}{nearest(min(given), known)}.")
    if target is not None and type(target) is not int:
        raise Problem(f"{where}: class must be a whole number.")
    try:
        rule(table["rule"])
    except KeyError:
        raise Problem(
            f"{where}: there is no rule {table['rule']!r}{nearest(table['rule'], RULES)}."
        ) from None
    if not re.fullmatch("[0-9a-f]{64}", table["model"]):
        raise Problem(
            f"{where}: model must be the 64 hexadecimal digits that a report gives as model.digest."
        )
    return Entry(**{key: table[key] for key in _KEYS}, target=target)


def _said(entry: Entry) -> dict[str, str]:
    return {
        "rule": entry.rule,
        "model": entry.model,
        "owner": entry.owner,
        "expires": entry.expires.isoformat(),
    }
