# Made from the contract by `cargo run -p codegen`, not by hand.
# ruff: noqa: D107, E501, F401
"""The conversation between an attempt and its host."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import List, Optional, Union

from . import _process
from .blender import Render
from .types import Directive


class Level(Enum):
    """How important a message is."""

    DEBUG = "debug"
    """For the author of the plugin."""

    INFO = "info"
    """For whoever follows a job."""

    WARN = "warn"
    """Something is odd, the render goes on."""

    ERROR = "error"
    """Something failed."""


@dataclass(frozen=True)
class WakeFinished(_process.Case):
    """The render at this index of the list is finished, well or not."""

    case = "finished"
    value: int


@dataclass(frozen=True)
class WakeTurn(_process.Case):
    """The host wants something other than to proceed."""

    case = "turn"
    value: Directive


@dataclass(frozen=True)
class WakeTimeout(_process.Case):
    """The time is over."""

    case = "timeout"


Wake = Union[WakeFinished, WakeTurn, WakeTimeout]
"""Why `wait-any` returned."""


def log(level: Level, message: str) -> None:
    """Writes a line to the job's log. At most 8 KiB a line; the rest is cut off."""
    _process.ask("host.log", None, level=level, message=message)


def progress(fraction: float, message: str) -> None:
    """Says how far the task is: 0.0 to 1.0 (clamped), with a few words."""
    _process.ask("host.progress", None, fraction=fraction, message=message)


def turn() -> Directive:
    """Asks how to go on. Never waits."""
    answer: Directive = _process.ask("host.turn", Directive)
    return answer


def wait_any(renders: List[Render], timeout_ms: Optional[int] = None) -> Wake:
    """Waits until one of the renders is finished, the host wants a turn, or
    the time is over; whichever is first. No renders and no time-out waits
    for a turn only.
    """
    answer: Wake = _process.ask("host.wait_any", Wake, renders=renders, timeout_ms=timeout_ms)
    return answer
