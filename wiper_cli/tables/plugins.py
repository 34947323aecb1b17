"""Methods, detectors and trigger families of other distributions; off unless named, since this tool reads untrusted
files.

A plug-in is named as its distribution is: ``--plugin NAME``, or the variable ``WIPER_PLUGIN``, which children inherit.
It offers entry points ``name = "module:Class"`` of the groups in :data:`GROUPS`, and none takes the name of another.
"""

import os
from collections.abc import Callable, Collection, Iterable, Mapping
from importlib.metadata import EntryPoint, PackageNotFoundError, distribution

from wiper_cli.verdict import Problem

VARIABLE = "WIPER_PLUGIN"

_active: set[str] = set()


def inherit() -> None:
    """What the parent has activated joins the tables of this process; it has said what could not."""
    activate(os.environ.get(VARIABLE, "").split())


def activate(names: Iterable[str], flags: Collection[str] = ()) -> list[str]:
    """Lets what the distributions ``names`` offer join the tables of this process and of its children. ``flags``: of
    the command, which the options of a method may not take.

    Returns a sentence for each entry point that cannot join. Raises :class:`Problem` for a distribution that is not
    installed or offers nothing.
    """
    wrong = []
    for name in dict.fromkeys(names):
        if name in _active:
            continue
        try:
            offered = [point for point in distribution(name).entry_points if point.group in GROUPS]
        except PackageNotFoundError:
            raise Problem(f"The plug-in {name} is not installed.") from None
        if not offered:
            raise Problem(f"{name} is no plug-in: it has no entry point of {', '.join(GROUPS)}.")
        for point in offered:
            try:
                GROUPS[point.group](point, flags)
            except (Exception, SystemExit) as error:  # whatever a stranger's module does when it is imported
                reason = " ".join(str(error).split()) or "it gives no reason"
                wrong.append(
                    f"The plug-in {name} brings no {point.name} to {point.group}: {type(error).__name__}: {reason}"
                )
        _active.add(name)
        os.environ[VARIABLE] = " ".join(sorted(_active))
    return wrong


def _purifier(point: EntryPoint, flags: Collection[str]) -> None:
    from wiper_cli.purifiers import METHODS
    from wiper_cli.purifiers.options import check

    check(point.name, point.load(), METHODS.values(), flags)
    METHODS.join(point.name, point.value)


def _detector(point: EntryPoint, flags: Collection[str]) -> None:
    from wiper_cli.detectors import DETECTORS
    from wiper_cli.detectors.evidence import check
    from wiper_cli.rules import RULES

    kind = check(point.name, point.load())
    if kind.rule.id in RULES:
        raise ValueError(f"the rule {kind.rule.id} is taken")
    DETECTORS.join(point.name, point.value)
    RULES[kind.rule.id] = kind.rule


def _family(point: EntryPoint, flags: Collection[str]) -> None:
    import triggers
    from triggers.family import Trigger

    kind = point.load()
    if not (isinstance(kind, type) and issubclass(kind, Trigger) and "__dataclass_fields__" in vars(kind)):
        raise TypeError("it is no dataclass that derives from triggers.family.Trigger")
    if kind.name != point.name or not all(
        hasattr(kind, fact) for fact in ("title", "source", "poisoning", "atlas")
    ):
        raise ValueError(
            "its name must be that of the entry point, and title, source, poisoning and atlas be told"
        )
    triggers.join(point.name, *point.value.split(":"))


#: Group of entry points → what lets one of them join its table, or raises.
GROUPS: Mapping[str, Callable[[EntryPoint, Collection[str]], None]] = {
    "wiper.purifiers": _purifier,
    "wiper.detectors": _detector,
    "wiper.triggers": _family,
}
