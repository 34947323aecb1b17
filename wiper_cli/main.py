"""The command ``wiper``: a click group whose commands load what is heavy only when they run."""

from __future__ import annotations

import io
import os
import signal
import sys
import warnings
from importlib import import_module
from typing import IO, TYPE_CHECKING, Any, NoReturn

from wiper_cli.verdict import ExitCode, Problem
from wiper_cli.worker import launcher

if TYPE_CHECKING:
    import click

#: Each is the function of this name in ``wiper_cli/commands/NAME.py``.
COMMANDS = (
    "scan", "purify", "verify", "inspect", "convert", "rebuild", "architectures", "triggers", "report", "rules", "demo",
    "doctor", "cache", "zoo", "bench", "completion", "man",
)  # fmt: skip


def cli() -> click.Group:
    """The command ``wiper`` with all its commands."""
    import click

    from wiper_cli import __version__
    from wiper_cli.commands.shared.help import Group
    from wiper_cli.commands.shared.options import PLUGIN
    from wiper_cli.commands.shared.variables import tell_unknown

    @click.group(
        cls=Group,
        examples=(
            "wiper scan model.onnx --clean images/ -f text -f html=report.html",
            "wiper purify model.onnx --clean images/ -o purified.onnx",
            'eval "$(wiper completion bash)"',
        ),
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
        commands=[getattr(import_module(f"wiper_cli.commands.{name}"), name) for name in COMMANDS],
    )
    @PLUGIN
    @click.version_option(__version__, prog_name="wiper")
    @click.pass_context
    def wiper(context: click.Context) -> None:
        """Audit, purify and verify a deployed image classifier against backdoors.

        MODEL is a safetensors, TorchScript or ONNX file. Try 'wiper demo' first.
        """
        tell_unknown(context)

    return wiper


def main() -> NoReturn:
    """Runs the command; every failure is one sentence on stderr and an exit code of :class:`ExitCode`.

    Nothing but the standard library is imported before the working directory is off the path.
    """
    sys.path[:] = launcher.safe_path()
    signal.signal(signal.SIGTERM, _terminate)
    _streams()
    warnings.showwarning = _warn
    try:
        launcher.check_packages()
    except Problem as problem:
        sys.exit(_say(str(problem), problem.exit_code))
    import click

    from formats import FormatError

    try:
        code = cli().main(prog_name="wiper", standalone_mode=False)
    except click.exceptions.Exit as stop:
        code = stop.exit_code
    except (KeyboardInterrupt, click.Abort):
        code = _say("Interrupted; no file was left half-written.", ExitCode.NO_VERDICT)
    except click.ClickException as error:
        from wiper_cli.reports.plain import plain

        if not isinstance(error, click.exceptions.NoArgsIsHelpError):  # that is the help
            error.message = plain(error.message)  # type: ignore[misc]  # it may repeat the name of a file
        error.show()
        code = ExitCode.USAGE
    except Problem as problem:
        code = _say(str(problem), problem.exit_code)
    except FormatError as error:
        code = _say(str(error), ExitCode.USAGE)
    except BrokenPipeError:
        # The reader of stdout went away; it has what it wanted.
        code = ExitCode.OK
    except Exception as error:
        if os.environ.get("WIPER_DEBUG"):
            raise
        sentence = f"Internal failure ({type(error).__name__}): {error}; set WIPER_DEBUG=1 to see where."
        if isinstance(error, OSError) and error.strerror:
            what = error.filename or "A stream, perhaps standard output,"
            if isinstance(error, FileNotFoundError) and not error.filename:  # Python asked where it is
                what = "The working folder"
            sentence = f"{what} cannot be used: {error.strerror}."
        code = _say(sentence, ExitCode.USAGE)
    if not code and isinstance(sys.stdout, _Lost) and sys.stdout.meant:
        code = _say("Standard output is closed, and what was meant for it is lost.", ExitCode.USAGE)
    if not _flushed():  # told by now; as Python ends it would be tried again, and change the exit code
        _discard(sys.stdout)
    sys.exit(int(code or 0))


def _flushed() -> bool:
    """Whether standard output takes what was written to it."""
    try:
        sys.stdout.flush()
    except OSError:
        return False
    return True


class _Lost(io.TextIOWrapper):
    """Standard output that was closed from the start."""

    #: Whether anything was written.
    meant = False

    def write(self, text: str, /) -> int:
        self.meant |= bool(text)
        return super().write(text)


class _Unheeded(io.TextIOWrapper):
    """Standard error, on which nothing depends: where it cannot be written, the exit code still counts."""

    def write(self, text: str, /) -> int:
        try:
            return super().write(text)
        except OSError:
            _discard(self)
            return len(text)

    def flush(self) -> None:
        try:
            super().flush()
        except OSError:
            _discard(self)


def _discard(stream: IO[str]) -> None:
    """From now on what is written there goes nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


def _streams() -> None:
    """Standard streams that can be used, whatever they were given as: full, closed, or of a poor encoding."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:  # closed: the next file to be opened would take its place
            os.open(os.devnull, os.O_RDWR)
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: PTH123, SIM115
    if sys.__stdout__ is None:
        sys.stdout = _Lost(open(os.devnull, "wb"))  # noqa: PTH123, SIM115
    error = sys.stderr
    if error is sys.__stderr__ and isinstance(error, io.TextIOWrapper):
        binary = open(error.fileno(), "wb", closefd=False)  # noqa: SIM115
        sys.stderr = _Unheeded(binary, error.encoding, "replace", line_buffering=True)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A character that the terminal's encoding lacks is no reason to lose a report.
            stream.reconfigure(errors="replace")


def _warn(message: Warning | str, *_: Any, **__: Any) -> None:
    """A library's warning may quote the file that it reads."""
    _say(str(message), ExitCode.OK)


def _say(sentence: str, code: ExitCode) -> ExitCode:
    from wiper_cli.reports.plain import plain

    print(f"wiper: {plain(sentence)}", file=sys.stderr)
    return code


def _terminate(*_: Any) -> NoReturn:
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()
