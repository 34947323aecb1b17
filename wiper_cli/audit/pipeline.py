"""The story of every request, for the command's worker and for Python.

A story (:mod:`wiper_cli.audit.stories`) works on a network and images in memory, in steps of other modules:
:mod:`~wiper_cli.audit.subject` prepares, :mod:`~wiper_cli.audit.detection` scans and judges, the settings of a method
purify, :mod:`~wiper_cli.audit.measure` measures, :mod:`~wiper_cli.audit.acceptance` decides,
:mod:`~wiper_cli.audit.rounds` says what another round knows and which one stands.
"""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from wiper_cli.audit import requests
from wiper_cli.audit.stories.inspect import check, inspect, rebuild
from wiper_cli.audit.stories.purify import purify
from wiper_cli.audit.stories.scan import plan, scan
from wiper_cli.audit.stories.verify import verify
from wiper_cli.audit.subject import SILENT, Reporter

A = TypeVar("A")


_STORIES: Mapping[type, Callable[..., Any]] = {
    requests.InspectRequest: inspect,
    requests.PlanRequest: plan,
    requests.ScanRequest: scan,
    requests.PurifyRequest: purify,
    requests.VerifyRequest: verify,
    requests.CheckRequest: check,
    requests.RebuildRequest: rebuild,
}


def run(
    request: requests.Request[A], report: Reporter = SILENT, interim: Callable[[Any], None] = lambda _: None
) -> A:
    """The answer to ``request``, by its type; ``interim``: as of :func:`scan` and :func:`purify`. Raises
    :class:`Problem` or a ``FormatError`` where there is none."""
    more = {"interim": interim} if isinstance(request, (requests.ScanRequest, requests.PurifyRequest)) else {}
    answer: A = _STORIES[type(request)](request, report, **more)
    return answer
