"""What a person sees while waiting, on stderr: bars with the time left on a terminal, else a line a stage."""

import sys
import time
from types import TracebackType
from typing import Any, Self

from wiper_cli.reports.plain import plain


class Display:
    """Progress of one run; use as a context manager and pass :meth:`progress` and :meth:`log` on."""

    def __init__(self, quiet: bool = False, verbose: bool = False) -> None:
        self.quiet, self.verbose = quiet, verbose
        self._bars: Any = None
        self._task: Any = None
        self._stage = ""
        self._began = time.monotonic()
        self._prefix = ""
        self._whole: Display | None = None

    def __enter__(self) -> Self:
        if self._whole is None and not self.quiet and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

            self._bars = Progress(
                TextColumn("{task.description:<44}", markup=False),
                BarColumn(bar_width=28),
                TextColumn("{task.percentage:>3.0f}%"),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(compact=True),
                console=Console(stderr=True),
                transient=True,
            )
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._finish_stage()
        if self._bars is not None and self._whole is None:
            self._bars.stop()

    def part(self, name: str) -> "Display":
        """Of one of several files that are worked on at once: bars beside ours; without a terminal their stages are
        told with ``verbose`` only. Every line begins with ``name``."""
        one = Display(self.quiet or (self._bars is None and not self.verbose), self.verbose)
        one._bars, one._whole, one._prefix = self._bars, self, f"{name}: "
        return one

    def subject(self, name: str) -> None:
        """Names the file that the next stages are about."""
        self._finish_stage()
        self._prefix = f"{name}: "

    def progress(self, stage: str, done: int, total: int) -> None:
        """A :class:`wiper_cli.progress.Progress`."""
        if stage != self._stage:
            self._finish_stage()
            self._stage, self._began = stage, time.monotonic()
            if self._bars is not None:
                self._task = self._bars.add_task(plain(self._prefix + stage), total=total or None)
        if self._bars is not None and self._task is not None:
            self._bars.update(self._task, completed=done, total=total or None)

    def _finish_stage(self) -> None:
        if self._stage and self._bars is None and not self.quiet:
            seconds = time.monotonic() - self._began
            print(f"{plain(self._prefix + self._stage)} ({seconds:.1f} s)", file=sys.stderr)
        if self._bars is not None and self._task is not None:
            self._bars.remove_task(self._task)
            self._task = None
        self._stage = ""

    def log(self, sentence: str) -> None:
        """A remark, shown with ``--verbose``."""
        if self.verbose:
            self.say(sentence)

    def say(self, sentence: str) -> None:
        """A line on stderr that is always shown."""
        if self._whole is not None:
            self._whole.say(self._prefix + sentence)
            return
        if self._bars is not None:
            self._bars.console.print(
                plain(sentence), markup=False, highlight=False, emoji=False, soft_wrap=True
            )
        else:
            print(plain(sentence), file=sys.stderr)
