"""Where the example that comes with every installation lies. Standard library only."""

from pathlib import Path

from wiper_cli.verdict import Problem


def example_folder() -> Path:
    """The handwritten digits: one backdoored model in three formats, its clean twin, ``clean/``, the trigger.

    In a wheel the source tree's ``examples/`` lies inside this package as ``example/`` (``pyproject.toml``).
    Raises :class:`Problem` where neither is there.
    """
    here = Path(__file__).resolve().parents[2]
    for folder in (here / "example" / "digits", here.parent / "examples" / "digits"):
        if (folder / "manifest.json").is_file():
            return folder
    raise Problem("The example files are missing from this installation; install wiper-cli again.")
