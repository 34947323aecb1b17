"""The graph audit of one file: its findings, an input that takes the branch, and what they make of a verdict."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from formats import FormatError, Hostile, Unsupported, read_source, trace
from wiper_cli.audit.agreement import stateless
from wiper_cli.audit.judgement import Judgement, called
from wiper_cli.audit.requests import Request
from wiper_cli.audit.served import Served
from wiper_cli.audit.subject import Notes, Reporter
from wiper_cli.graph.asleep import LOUD, Sleeper, seek
from wiper_cli.graph.few import few as normalised_over_few
from wiper_cli.graph.flow import Flow
from wiper_cli.graph.rules import Hit, audit
from wiper_cli.graph.solve import Taken, solve
from wiper_cli.images.thumbnails import triple
from wiper_cli.verdict import ExitCode, Finding, Problem, Severity, Verdict

#: Steps of a path that are shown.
SHOWN = 12
_HIDDEN = "{} values that are joined to others could not be looked at."
#: Rules about what was not examined: with them there is no clean verdict.
_UNSEEN = ("WIPER-G11", "WIPER-G12", "WIPER-G13")
#: Roles that change no value and are left out of what is shown.
_PLUMBING = frozenset({"view", "stored", "shape"})


@dataclass(frozen=True)
class Branches:
    """``flow``: ``None`` for a file without a graph of its own, or one that could not be followed (``reason``)."""

    flow: Flow | None = None
    findings: tuple[Finding, ...] = ()
    reason: str = ""

    @property
    def standing(self) -> tuple[Finding, ...]:
        """Those that make the model suspicious."""
        return tuple(one for one in self.findings if one.severity >= Severity.HIGH)

    @property
    def charge(self) -> str:
        """What the model is suspected of, in one sentence."""
        first, *more = sorted({one.rule for one in self.standing})
        rules = f"{first} and {len(more)} more" if more else first
        return f"its graph has a branch that no honest network has ({rules}): {self.standing[0].message}"

    @property
    def refusal(self) -> str:
        """Why the file is not purified."""
        return (
            f"Not purified: {self.charge} The branch stands whatever the weights are: move these into a definition of "
            "the network that you trust, with wiper rebuild MODEL --arch NAME -o OUT. Nothing was written."
        )

    def weigh(self, judged: Judgement) -> tuple[Verdict, str]:
        """The verdict and its sentence, of the graph and of the detectors together."""
        if self.standing:
            rest = f" Besides, {judged.sentence.removeprefix('Suspicious: ')}" if judged.findings else ""
            return Verdict.SUSPICIOUS, f"Suspicious: {self.charge}{rest}"
        if self.reason and judged.verdict == Verdict.NO_FINDING:
            sentence = f"No verdict: the graph could not be audited: {self.reason} {judged.sentence}"
            return Verdict.INCOMPLETE, sentence
        unseen = next((one for one in self.findings if one.rule in _UNSEEN), None)
        if unseen and judged.verdict == Verdict.NO_FINDING:
            return Verdict.INCOMPLETE, f"No verdict: {unseen.message} {judged.sentence}"
        return judged.verdict, judged.sentence

    def confirm(self, served: Served, images: Tensor, names: Sequence[str], report: Reporter) -> Branches:
        """The same with an input that takes the branch, made of one of ``images`` (uint8 [N,C,H,W]), or the word that
        none was found; where the graph alone shows none, with what joined values do. ``names``: of the classes."""
        if self.flow is None:
            return self
        report("seek an input that takes the branch", 0, 0)
        if not self.standing:
            return self._awake(self.flow, served, images, names)
        hits = audit(self.flow)
        sources = [one for hit in hits for one in hit.sources if hit.severity > Severity.INFO]
        taken, passes = solve(self.flow, sources, served, images)
        first = next((hit for hit in hits if taken and taken.source in (*hit.path, *hit.sources)), hits[0])
        confirmed = [
            _confirmed(found, taken, passes, names) if hit is first else found
            for hit, found in zip(hits, self.findings, strict=True)
        ]
        return replace(self, findings=tuple(confirmed))

    def _awake(self, flow: Flow, served: Served, images: Tensor, names: Sequence[str]) -> Branches:
        """The same with a value that sleeps on clean images, or that is computed from a few pixels."""
        try:
            found, failed = seek(flow, served, images)
            asked = all(one.rule != "WIPER-G13" for one in self.findings)
            few = next(normalised_over_few(flow, served, images), None) if asked else None
        except Unsupported as error:
            return replace(self, reason=str(error))
        one = self
        if few:
            told = _finding(flow, replace(few, path=tuple(flow.path(few.through))))
            one = replace(self, findings=(*self.findings, told))
        if found:
            return replace(one, findings=(_slept(flow, found, names), *one.findings))
        # No export that was measured has such values: who hides a branch in a condition gets no clean verdict.
        return replace(one, reason=_HIDDEN.format(failed)) if failed else one

    @contextmanager
    def told(self) -> Iterator[None]:
        """Whatever ends the examination inside, a branch in the graph is told with it."""
        try:
            yield
        except (FormatError, Problem) as error:
            if not self.standing or isinstance(error, Hostile):
                raise
            findings = [*self.findings, *(error.findings if isinstance(error, Problem) else ())]
            sentence = f"Suspicious: {self.charge} {error}"
            raise Problem(sentence, ExitCode.NO_VERDICT, findings, Verdict.SUSPICIOUS) from error


def read(request: Request[Any], report: Reporter, notes: Notes) -> Branches:
    """What the graph of the file shows; nothing of it runs."""
    report("audit the graph", 0, 0)
    with notes.stage("graph"):
        try:
            with stateless():
                dataflow = trace(replace(read_source(request.model), logits=request.logits))
            if dataflow is None:
                return Branches()
            flow = Flow(dataflow)
            return Branches(flow, tuple(_finding(flow, hit) for hit in audit(flow)))
        except Hostile:
            raise
        except FormatError as error:
            notes.omit("the graph audit", str(error))
            return Branches(reason=str(error))


def _confirmed(found: Finding, taken: Taken | None, passes: int, names: Sequence[str]) -> Finding:
    """``found`` with the input that takes the branch."""
    if taken is None:
        return replace(found, message=f"{found.message} No input that takes it was found in {passes} passes.")
    said = (
        f"An input that takes it was found in {taken.passes} passes: with {100 * taken.share:.2g} % of the pixels "
        f"changed, {taken.answered} of {taken.images} clean images are called {called(taken.target, names)}, "
        f"{taken.before} before."
    )
    evidence = {
        "target": taken.target, "answered": taken.answered, "images": taken.images, "before": taken.before,
        "changed_share": round(taken.share, 5), "passes": taken.passes,
    }  # fmt: skip
    return replace(
        found,
        severity=Severity.CRITICAL if taken.local else found.severity,
        message=f"{found.message} {said}",
        evidence={**found.evidence, **evidence},
        pictures=triple(taken.clean, taken.changed),
    )


def _slept(flow: Flow, one: Sleeper, names: Sequence[str]) -> Finding:
    """The finding about a value that sleeps, or that is computed from a few pixels."""
    side, woken = one.side, one.woken
    share, loud = f"{100 * woken.share:.2g} % of the pixels", woken.ratio >= LOUD
    what = "is silent on clean images until another input wakes it" if loud else f"depends on {share} alone"
    hit = Hit(
        "WIPER-G10" if loud else "WIPER-G07",
        Severity.HIGH if one.taken else Severity.LOW,
        f"A value that is joined to others {what}.",
        (side.node, side.join),
        side.join,
        path=tuple(flow.path((side.node, side.join))),
    )
    evidence = {"louder": round(min(woken.ratio, 1e9), 1), "pixels_share": round(woken.share, 5)}
    return _confirmed(replace(_finding(flow, hit), evidence=evidence), one.taken, woken.passes, names)


def _finding(flow: Flow, hit: Hit) -> Finding:
    node = flow[hit.node]
    evidence: dict[str, Any] = {"places": hit.count} if hit.count > 1 else {}
    if hit.rule == "WIPER-G01" and len(hit.through) > 1:
        condition = flow[hit.through[0]]
        evidence["condition"] = f"{condition.operator} {condition.place}"
    return Finding(
        rule=hit.rule,
        severity=hit.severity,
        message=hit.message,
        evidence=evidence,
        place={"node": node.place, "operator": node.operator},
        path=tuple(_steps(flow, hit)),
    )


def _steps(flow: Flow, hit: Hit) -> list[Mapping[str, str]]:
    """The path for people: without what changes no value, cut in the middle."""
    marked = {*hit.through, hit.node}
    kept = [n for n in hit.path if flow[n].role not in _PLUMBING or n in marked or n == flow.output]
    if len(kept) > SHOWN:
        weight = {n: (n in marked, n in (kept[0], kept[-1]), n not in flow.weighted) for n in kept}
        chosen = sorted(kept, key=lambda n: weight[n], reverse=True)[:SHOWN]
        kept = sorted(chosen, key=kept.index)
    steps: list[Mapping[str, str]] = []
    for n in kept:
        node = flow[n]
        mark = "join" if n == hit.node else "condition" if n in marked else ""
        mark = mark or ("weighted" if n in flow.weighted else "")
        operator = "image" if node.role == "input" else node.operator.rpartition("::")[2]
        steps.append({"operator": operator, "place": node.place, "mark": mark})
    return steps
