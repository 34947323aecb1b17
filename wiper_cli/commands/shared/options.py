"""What a run was asked to do: flags, then ``WIPER_*`` variables, then ``wiper.toml``, then defaults.

click merges the four; this module declares the options once and freezes the outcome with the origin of each value.
The file is read by :mod:`wiper_cli.commands.shared.settings_file`.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

import click
from click.shell_completion import CompletionItem

from formats import FormatError
from formats.hub import model_in
from wiper_cli.audit.requests import Examination, ScanRequest
from wiper_cli.commands.shared.completion import architectures, names_of
from wiper_cli.commands.shared.help import Option
from wiper_cli.commands.shared.remote import place_of
from wiper_cli.commands.shared.settings_file import load, tell, use_plugins
from wiper_cli.detectors import DETECTORS
from wiper_cli.detectors.effort import EFFORTS
from wiper_cli.nearest import nearest
from wiper_cli.reports import FORMATS
from wiper_cli.reports.plain import plain
from wiper_cli.verdict import ExitCode, Severity
from wiper_cli.worker.confinement import Mode

F = TypeVar("F", bound=Callable[..., Any])


class _Models(click.Path):
    """A path as text: whether it can be read is the gate's to say. Where several are taken, a folder stands for all
    models in it (:mod:`wiper_cli.commands.fleet.walking`)."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return place_of(os.fsdecode(super().convert(value, param, ctx)))


class _Model(_Models):
    """A folder stands for the model file in it."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        path = Path(os.fsdecode(click.Path.convert(self, value, param, ctx)))
        with suppress(FormatError):  # which says so again when the model is read
            return model_in(path) if path.is_dir() else path
        return path


MODEL, MODELS = _Model(), _Models()
SEVERITIES = [severity.word for severity in Severity if severity > Severity.INFO]


@dataclass(frozen=True)
class Settings:
    """The options that scan, purify and verify share; field names are option names."""

    clean: Path | None
    output_formats: tuple[str, ...]
    arch: str | None
    logits: str | None
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None
    input_size: tuple[int, int] | None
    resize: str | None
    channel_order: str | None
    preprocessing: Path | None
    classes: Path | None
    max_images: int
    device: str
    seed: int
    timeout: float | None
    isolation: Mode
    fail_on: str
    exit_zero: bool
    quiet: bool
    verbose: bool
    #: Option name → "command line", "environment", "file" or "default".
    origins: Mapping[str, str]

    @classmethod
    def of(cls, context: click.Context) -> Settings:
        """Takes the shared options out of ``context.params``; the command keeps the rest."""
        tell(context)
        if context.params.pop("show_settings", False):
            click.echo(shown(context))
            context.exit(ExitCode.OK)
        names = [field.name for field in fields(cls) if field.name != "origins"]
        values = {name: context.params.pop(name) for name in names}
        return cls(**values, origins={name: origin(context, name) for name in names})

    def examination(self) -> dict[str, Any]:
        """The fields of an :class:`Examination` that are options, all but its model."""
        return {item.name: getattr(self, item.name) for item in fields(Examination) if item.name != "model"}


def origin(context: click.Context, name: str) -> str:
    """Where the value of an option came from."""
    source = context.get_parameter_source(name)
    words = {"COMMANDLINE": "command line", "ENVIRONMENT": "environment", "DEFAULT_MAP": "file"}
    return words.get(source.name if source else "", "default")


def shown(context: click.Context) -> str:
    """Every option of the command with its value and origin, one a line."""
    rows = [
        plain(f"{name} = {value!r}") + f"  ({origin(context, name)})"
        for name, value in sorted(context.params.items())
        if name != "models"
    ]
    return "\n".join(rows)


class Number(click.FloatRange):
    """A finite number in a range; click's own range lets NaN pass."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number: float = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a finite number.", param, ctx)
        return number


class _Numbers(click.ParamType):  # type: ignore[type-arg]
    """``0.5`` or ``0.485,0.456,0.406``."""

    name = "N[,N…]"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[float, ...]:
        parts = value if isinstance(value, (list, tuple)) else str(value).split(",")
        try:
            numbers = tuple(float(part) for part in parts)
        except ValueError:
            numbers = ()
        if not numbers or not all(map(math.isfinite, numbers)):
            self.fail(f"{value!r} is not a number or a list of numbers with commas between.", param, ctx)
        return numbers


class _Size(click.ParamType):  # type: ignore[type-arg]
    """``224`` or ``224x160`` (height x width)."""

    name = "H[xW]"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, int]:
        parts = value if isinstance(value, (list, tuple)) else str(value).lower().split("x")
        try:
            height, width = (int(parts[0]), int(parts[-1]))
        except ValueError:
            self.fail(f"{value!r} is not a size such as 224 or 224x160.", param, ctx)
        if len(parts) > 2 or not (1 <= height <= 8192 and 1 <= width <= 8192):
            self.fail(f"{value!r} is not a size between 1 and 8192 pixels.", param, ctx)
        return height, width


class Duration(click.ParamType):  # type: ignore[type-arg]
    """``90``, ``90s``, ``20m`` or ``1.5h``, in seconds."""

    name = "N[s|m|h]"
    _UNITS: Mapping[str, int] = {"s": 1, "m": 60, "h": 3600}

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        text = str(value).strip().lower()
        unit = self._UNITS.get(text[-1:], 0)
        try:
            seconds = float(text[:-1] if unit else text) * (unit or 1)
        except ValueError:
            seconds = math.nan
        if not 1 <= seconds < math.inf:
            self.fail(f"{value!r} is not a time of a second or more such as 90s, 20m or 1.5h.", param, ctx)
        return seconds


class Detectors(click.ParamType):  # type: ignore[type-arg]
    """``all``, ``none``, or names of detectors with commas between."""

    name = "NAMES"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        names = [name.strip() for name in str(value).split(",")]
        unknown = [name for name in names if name not in DETECTORS]
        if unknown and names not in (["all"], ["none"]):
            near = nearest(unknown[0], DETECTORS)
            self.fail(
                f"there is no detector {unknown[0]!r}{near}; there are {', '.join(DETECTORS)}.", param, ctx
            )
        return ",".join(names)

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        found = names_of(lambda: ["all", "none", *DETECTORS], many=True)(ctx, param, incomplete)
        return [CompletionItem(name) for name in found]

    @staticmethod
    def named(value: str) -> tuple[str, ...]:
        """The detectors that a converted value stands for."""
        return {"all": tuple(DETECTORS), "none": ()}.get(value, tuple(value.split(",")))


def option(*names: str, **details: Any) -> Callable[[F], F]:
    """``click.option`` with a ``WIPER_NAME`` variable beside the flag."""
    return click.option(*names, **with_variable(names, details))


def with_variable(names: Sequence[str], details: dict[str, Any]) -> dict[str, Any]:
    """The details of an option and the variable that stands for it."""
    long = next(name for name in names if name.startswith("--")).split("/")[0]
    details.setdefault("envvar", "WIPER_" + long[2:].replace("-", "_").upper())
    details.setdefault("cls", Option)
    details.setdefault("show_default", details.get("default") is not None and not details.get("is_flag"))
    return details


#: Of the group, so that plug-ins have joined before the options of a command are made.
PLUGIN = click.option(
    "--plugin", multiple=True, expose_value=False, metavar="NAME", envvar="WIPER_PLUGIN",
    callback=lambda context, parameter, value: use_plugins(context, value),
    help="Run an installed distribution that adds methods, detectors or triggers; repeatable.",
)  # fmt: skip

CLEAN = option(
    "--clean",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Folder of clean images, a sub-folder a class.",
)

EFFORT = option(
    "--effort", type=click.Choice(["auto", *EFFORTS]), default=ScanRequest.effort, metavar="LEVEL",
    help=f"{', '.join(EFFORTS)}, or auto: thorough for small images and few classes.",
)  # fmt: skip

#: Of the commands that take several models.
JOBS = option(
    "--jobs", type=click.IntRange(1, 256), default=1, metavar="N",
    help="Models examined at once, each with its share of cores and memory.",
)  # fmt: skip

#: In the order in which ``--help`` shows them.
SHARED: Sequence[Callable[[Any], Any]] = (
    CLEAN,
    option(
        "-f", "--format", "output_formats", multiple=True, metavar="FORMAT[=FILE]", envvar="WIPER_FORMAT",
        shell_complete=names_of(lambda: FORMATS),
        help=f"{', '.join(FORMATS)}; repeatable.",
    ),
    option(
        "--arch", metavar="NAME|FILE.py:FACTORY", shell_complete=names_of(architectures),
        help="Network of a safetensors file; FILE.py is run.",
    ),
    option("--logits", metavar="NAME", help="Which of several outputs has the logits."),
    option("--mean", type=_Numbers(), help="What the model wants subtracted from 0..1."),
    option("--std", type=_Numbers(), help="What it wants that divided by."),
    option("--input-size", type=_Size(), metavar="H[xW]", help="Pixels of the model's input."),
    option(
        "--resize", metavar="squash|crop",
        type=click.Choice(["squash", "crop"]),
        help="Stretch pictures, or cut out their centre.",
    ),
    option(
        "--channel-order", metavar="rgb|bgr", type=click.Choice(["rgb", "bgr"]),
        help="bgr: blue first, as OpenCV and Caffe read.",
    ),
    option(
        "--preprocessing", type=click.Path(path_type=Path), metavar="FILE",
        help="All of these, as preprocessor_config.json.",
    ),
    option(
        "--classes", type=click.Path(path_type=Path), metavar="FILE",
        help="Class names in the model's order, one a line.",
    ),
    option(
        "--max-images", type=click.IntRange(1, 1 << 32), default=Examination.max_images, metavar="N",
        help="Most images in memory.",
    ),
    option("--device", default=Examination.device, metavar="auto|cpu|cuda[:N]", help="Where the model runs."),
    option(
        "--seed", type=click.IntRange(-(1 << 62), 1 << 62), default=Examination.seed, metavar="N",
        help="Of all that is random.",
    ),
    option("--timeout", type=Number(min=1), metavar="SECONDS", help="Give up after this long."),
    option(
        "--isolation", type=click.Choice(["auto", "require", "off"]), default="auto", metavar="auto|require|off",
        help="Confine the model.",
    ),
    option(
        "--fail-on", type=click.Choice(SEVERITIES), default="high", metavar="SEVERITY",
        help=f"{', '.join(SEVERITIES)}.",
    ),
    option("--exit-zero", is_flag=True, help="Exit with 0 where findings would give 1."),
    option("-q", "--quiet", is_flag=True, help="The verdict alone on stderr, no progress."),
    option("-v", "--verbose", is_flag=True, help="Say more on stderr."),
    click.option("--show-settings", is_flag=True, help="Print all settings and their origin; stop."),
    click.option(
        "--config", type=click.Path(path_type=Path, dir_okay=False), is_eager=True, expose_value=False,
        metavar="FILE", envvar="WIPER_CONFIG", callback=lambda ctx, param, value: load(ctx, value),
        help="TOML; what is merely found may only tighten.",
    ),
)  # fmt: skip


def shared_options(command: F) -> F:
    """Adds :data:`SHARED` to a command."""
    for decorate in reversed(SHARED):
        command = decorate(command)
    return command
