"""How a Python child of ours is started and what it may import: never the working directory, which may be the folder
of an untrusted model. Standard library only: :mod:`wiper_cli.main` loads this before anything else.
"""

import os
import site
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from wiper_cli.verdict import Problem

#: The folder that holds our packages.
ROOT = Path(__file__).absolute().parents[2]

#: Our packages with plain names, and something that each must have.
_OURS = {"formats": "FormatError", "triggers": "FAMILIES"}


def command(*arguments: str) -> list[str]:
    """The command line of a child; ``arguments`` as Python takes them, such as ``-m``, a module, its arguments."""
    return [sys.executable, "-P", *arguments]


def environment(**changes: str) -> dict[str, str]:
    """A child's environment: ours with ``changes``, and no way to import from its working directory.

    The folder of our packages stands first on PYTHONPATH, unless it is one of Python's site folders (these must not
    come before the standard library) or PYTHONPATH cannot hold its name: there, wiper must be installed.
    """
    entries = [entry for entry in _pythonpath() if Path(entry).is_absolute() and Path(entry) != ROOT]
    sites = [site.getusersitepackages(), *site.getsitepackages()]
    if os.pathsep not in str(ROOT) and ROOT.resolve() not in _folders(sites):
        entries.insert(0, str(ROOT))
    return {**os.environ, "PYTHONPATH": os.pathsep.join(entries), "PYTHONSAFEPATH": "1", **changes}


@contextmanager
def exported() -> Iterator[None]:
    """:func:`environment` in this process, for children that a library starts (``multiprocessing``, Ray)."""
    before = {name: os.environ.get(name) for name in ("PYTHONPATH", "PYTHONSAFEPATH")}
    os.environ.update(environment())
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def safe_path() -> list[str]:
    """``sys.path`` without the working directory: neither as the first entry, where ``python -m`` and ``-c`` put it,
    nor through an empty or relative entry of PYTHONPATH. It stays where PYTHONPATH names it in full, and where it
    holds our packages.
    """
    listed = _pythonpath()
    try:
        here = Path.cwd()
        named = _folders(entry for entry in (str(ROOT), *listed) if Path(entry).is_absolute())
        unsafe = _folders(entry for entry in listed if not Path(entry).is_absolute()) - named
        first = not sys.flags.safe_path and here not in named and Path(sys.path[0]).resolve() == here
        return [entry for entry in sys.path[first:] if entry and Path(entry).resolve() not in unsafe]
    except FileNotFoundError:  # the working directory is gone
        return [entry for entry in sys.path if Path(entry).is_absolute()]


def check_packages() -> None:
    """Raises Problem, naming the file, where ``formats`` or ``triggers`` is another's or cannot be imported."""
    for name, needed in _OURS.items():
        reason = ""
        try:
            spec = find_spec(name)
            place = spec and (spec.origin or next(iter(spec.submodule_search_locations or ()), None))
        except ValueError:  # in sys.modules without a spec
            place = getattr(sys.modules[name], "__file__", None)
        if place and Path(place).parent.resolve() == (ROOT / name).resolve():
            try:
                getattr(import_module(name), needed)
                continue
            except (Exception, SystemExit) as error:  # another distribution may have overwritten ours
                reason = f" ({type(error).__name__}: {error})"
        raise Problem(
            f"{place or 'Nothing'} is imported as {name!r} in place of wiper's own package{reason}: take it off "
            "PYTHONPATH or uninstall what brought it, or install wiper-cli again in an environment of its own."
        )


def _pythonpath() -> list[str]:
    """The entries of PYTHONPATH as this interpreter took them."""
    text = "" if sys.flags.ignore_environment else os.environ.get("PYTHONPATH", "")
    return text.split(os.pathsep) if text else []


def _folders(entries: Iterable[str]) -> set[Path]:
    return {Path(entry).resolve() for entry in entries}
