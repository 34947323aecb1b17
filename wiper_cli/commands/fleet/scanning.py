"""A scan of one model, as a run over several has it made: on this machine or on another one."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from wiper_cli.audit.answers import ScanAnswer
from wiper_cli.audit.requests import PlanRequest, ScanRequest
from wiper_cli.commands.fleet.batch import Item
from wiper_cli.commands.shared import document as documents
from wiper_cli.commands.shared.cache import Cache, Entry, place
from wiper_cli.commands.shared.cache_key import Key, key_of
from wiper_cli.commands.shared.document import Document
from wiper_cli.commands.shared.options import Detectors
from wiper_cli.commands.shared.run import Run, Subject
from wiper_cli.verdict import Problem

#: Scans of one model that its own folder keeps.
_MOST_KEPT = 4


@dataclass(frozen=True)
class Scan:
    """A ``Work`` of :mod:`wiper_cli.commands.fleet.batch`. ``explain``: see :class:`ScanRequest`. ``cached``: whether
    earlier scans are looked for and this one is kept, in ``kept`` below the item's own folder in ``folder``, under the
    user's ``seal``, else where the user has all of them."""

    explain: Path | None
    cached: bool
    folder: Path | None
    seal: bytes | None = None

    def __call__(self, run: Run, item: Item, document: Document) -> None:
        with run.subject(item.model, document) as subject:
            request = ScanRequest(**run.examined(subject), **_asked(item), explain=self.explain)
            _scan(run, subject, request, document, self._cache(run, item))
        run.suppress(document)
        documents.conclude(document, run.settings.fail_on, run.settings.exit_zero)

    def _cache(self, run: Run, item: Item) -> Cache:
        if self.cached and self.folder is None:
            return Cache(place(), run.display.say)
        if self.cached and self.folder and self.seal:
            return Cache(self.folder / item.folder / "kept", run.display.say, _MOST_KEPT, self.seal)
        return Cache(None)


def planned(run: Run, item: Item) -> str:
    """What a scan would do, in a sentence."""
    own = replace(run, settings=item.settings)
    with own.subject(item.model) as subject:
        return own.ask(PlanRequest(**own.examined(subject), **_asked(item))).sentence


def _asked(item: Item) -> dict[str, Any]:
    return {**item.asked, "detectors": Detectors.named(item.asked["detectors"])}


def _scan(
    run: Run,
    subject: Subject,
    request: ScanRequest,
    document: Document,
    cache: Cache,
) -> None:
    """Into ``document`` what the scan finds, or what it had found when it was run before."""
    key = _key(run, subject, request) if cache.folder else None
    earlier = cache.find(key.name) if key else None
    if earlier and earlier.answer.complete:
        try:
            documents.merge(document, earlier.answer)
        except Problem:
            run.display.say("What the cache holds of this scan keeps no schema of ours; it is run anew.")
            earlier = None
        else:
            _note(document, earlier, True, [one["name"] for one in document["detection"]["detectors"]])
            run.isolated(earlier.isolation)
            return

    def keep(answer: ScanAnswer) -> None:
        if key and key.holds and (answer.complete or answer.kept.pieces):
            name, made = subject.source.name, document["created"]
            cache.put(Entry(key=key.name, made=made, model=name, isolation=run.isolation, answer=answer))

    if earlier:
        request = replace(request, done=earlier.answer.kept)
        run.isolated(earlier.isolation)
    answer = run.ask_at_length(request, keep)
    if earlier and answer.taken:
        _note(document, earlier, False, answer.taken)
    documents.merge(document, answer)


def _key(run: Run, subject: Subject, request: ScanRequest) -> Key | None:
    def progress(stage: str, done: int, total: int) -> None:
        run.in_time()
        run.display.progress(stage, done, total)

    try:
        return key_of(request, subject.source, run.settings.isolation, progress)
    except (Problem, OSError, MemoryError):  # which the scan itself will meet, and explain
        return None


def _note(document: Document, earlier: Entry, whole: bool, detectors: Sequence[str]) -> None:
    document["cached"] = {"made": earlier.made, "whole": whole, "detectors": list(detectors)}
