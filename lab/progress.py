"""What a person sees while the rack is built: one line a step, its time, and the last word of it.

On a terminal the running step is a live line; elsewhere (CI, a log file) each step is a
plain line when it begins to matter, so that nothing is drawn over itself.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.status import Status


class Step:
    """One piece of work under way; `note` says what it is doing now."""

    def __init__(self, text: str, console: Console, status: Status | None) -> None:
        self.text = text
        self.started = time.monotonic()
        self._console = console
        self._status = status
        self._last = ""

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started

    def note(self, text: str) -> None:
        """Show the last word of the step (repeats are dropped)."""
        if text == self._last:
            return
        self._last = text
        if self._status is not None:
            self._status.update(f"{self.text} [dim]{text}[/dim]")
        else:
            self._console.print(
                f"  ·   {self.seconds:5.0f} s  {text}",
                highlight=False,
                markup=False,
                soft_wrap=True,
            )


class Progress:
    """Prints steps as they run and keeps the seconds of each."""

    def __init__(self, console: Console | None = None, quiet: bool = False) -> None:
        self.console = console or Console(stderr=True, quiet=quiet)
        self.seconds: dict[str, float] = {}
        self._steps: list[Step] = []

    def note(self, text: str) -> None:
        """Pass a word to the step under way."""
        if self._steps:
            self._steps[-1].note(text)

    @contextmanager
    def step(self, text: str) -> Iterator[Step]:
        """Time and show one piece of work.

        Args:
            text: what is being done, as a person would say it.
        """
        # Steps may nest; only the outermost owns the live line (rich allows one).
        live = self.console.is_terminal and not self._steps
        status = self.console.status(text) if live else None
        step = Step(text, self.console, status)
        if status is not None:
            status.start()
        elif not self._steps:
            self.console.print(f"  …  {text}", highlight=False, markup=False, soft_wrap=True)
        self._steps.append(step)
        mark = "[red]✗[/red]"
        try:
            yield step
            mark = "[green]✓[/green]"
        finally:
            self._steps.pop()
            if status is not None:
                status.stop()
            self.seconds[text] = step.seconds
            self.console.print(
                f"  {mark}   {step.seconds:5.0f} s  {text}", highlight=False, soft_wrap=True
            )
