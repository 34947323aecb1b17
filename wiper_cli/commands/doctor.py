"""``wiper doctor``: what this installation can do, and what it lacks."""

import importlib.metadata
import json
import platform
import subprocess
from importlib import import_module

import click

from wiper_cli import __version__
from wiper_cli.commands.shared.help import Command
from wiper_cli.reports.plain import plain
from wiper_cli.verdict import ExitCode
from wiper_cli.worker import launcher

#: Distribution, whether wiper cannot work without it, what it is for.
_PACKAGES = (
    ("torch", True, "opens and trains every kind of model"),
    ("torchvision", True, "architectures of safetensors files"),
    ("onnx", True, "reads ONNX graphs"),
    ("onnxruntime|onnxruntime-gpu", True, "serves ONNX files when they are checked after saving"),
    ("safetensors", True, "serves safetensors files when they are checked after saving"),
    ("pillow", True, "decodes images"),
    ("jinja2", True, "renders the HTML page"),
    ("rich", True, "renders text and progress"),
    ("timm", False, "more architectures of safetensors files"),
    ("transformers", False, "folders of models as its users share them"),
)
#: How a package is imported where ``import NAME`` is not how: what builds on torchvision needs no operators of it.
_STUBBED = "from formats.safetensors.torchvision_stub import import_torchvision; import_torchvision()"
_IMPORTS = {
    "pillow": "import PIL",
    "torchvision": _STUBBED,
    "timm": f"{_STUBBED}; import timm",
    "transformers": f"{_STUBBED}; import transformers",
}
#: Says of each package in turn why it cannot be imported, or null.
_TRIAL = """
import json, sys
for name, code in json.loads(sys.argv[1]).items():
    reason = None
    try:
        exec(code)
    except BaseException as error:
        reason = f"{type(error).__name__}: {error}"
    print(json.dumps([name, reason]), flush=True)
"""


@click.command(
    cls=Command,
    examples=("wiper doctor",),
)
@click.pass_context
def doctor(context: click.Context) -> None:
    """Check the installation: packages, devices, detectors, methods, confinement."""
    from wiper_cli.detectors import DETECTORS
    from wiper_cli.purifiers import METHODS

    click.echo(f"wiper {__version__}, Python {platform.python_version()}, {platform.platform()}")
    for package in ("wiper_cli", "formats", "triggers"):
        click.echo(f"  {package:<14} {import_module(package).__file__}")
    lacking = False
    broken = _broken()
    for names, needed, purpose in _PACKAGES:
        name = names.split("|")[0]
        version = next((v for v in map(_version, names.split("|")) if v), None)
        state = version or ("MISSING" if needed else "not installed")
        if version and name in broken:
            state, purpose = f"{version} BROKEN", f"cannot be imported: {plain(broken[name], 200)}"
        lacking |= needed and (version is None or name in broken)
        click.echo(f"  {name:<14} {state:<16} {purpose}")
    click.echo(f"  detectors      {', '.join(DETECTORS)}")
    click.echo(f"  methods        {', '.join(METHODS)}")
    click.echo(f"  devices        {plain(_devices())}")
    click.echo(f"  isolation      {plain(_isolation())}")
    context.exit(ExitCode.USAGE if lacking else ExitCode.OK)


def _broken() -> dict[str, str]:
    """Packages that cannot be imported as wiper does it, with the reason; tried in a process of their own, and in
    another one behind a package that ends it."""
    waiting = [names.split("|")[0] for names, _, _ in _PACKAGES]
    found: dict[str, str | None] = {}
    while waiting:
        asked = {name: _IMPORTS.get(name, f"import {name}") for name in waiting}
        said = _python("-c", _TRIAL, json.dumps(asked)).stdout.splitlines()
        found.update(json.loads(line) for line in said)
        if ended := waiting[len(said) : len(said) + 1]:
            found[ended[0]] = "it ends the process"
        waiting = waiting[len(said) + 1 :]
    return {name: reason for name, reason in found.items() if reason}


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _isolation() -> str:
    """Asks a process that confines itself, as the one does that opens a model."""
    outcome = _python("-m", "wiper_cli.worker.confinement")
    layers = json.loads(outcome.stdout) if outcome.returncode == 0 else []
    said = {
        held: [f"{one['name']} ({one['detail']})" for one in layers if one["holds"] is held]
        for held in (True, False)
    }
    return ", ".join(said[True] or ["none"]) + ("; missing: " + ", ".join(said[False]) if said[False] else "")


def _devices() -> str:
    """Asks torch in a process of its own: a broken build must not take doctor down."""
    code = (
        "import torch; print('cpu (%d threads)' % torch.get_num_threads(), "
        "*['cuda:%d %s' % (i, torch.cuda.get_device_name(i)) for i in range(torch.cuda.device_count())], sep=', ')"
    )
    outcome = _python("-c", code)
    if outcome.returncode == 0:
        return outcome.stdout.strip()
    return "torch cannot be imported: " + (outcome.stderr.strip().splitlines() or ["no reason given"])[-1]


def _python(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        launcher.command(*arguments), env=launcher.environment(), capture_output=True, text=True, check=False
    )
