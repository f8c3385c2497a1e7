# Made from the contract by `cargo run -p codegen`, not by hand.
# ruff: noqa: D107, E501, F401
"""What a plugin exports.

The host calls `plan` until a page has no `next`, then `render` once an
attempt at a task, in any order that `after` allows, each call in a fresh
instance: nothing that a plugin keeps in its own memory outlives a call.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any, List, Optional

from .types import FrameRange


@dataclass(frozen=True)
class Description:
    """What a plugin says of itself.

    Attributes:
        summary: One sentence for a list of renderers, at most 200 characters.
        settings_schema: JSON Schema (draft 2020-12) of `job.settings`: an object. A setting that it does not name is refused unless it says otherwise with `additionalProperties` or `unevaluatedProperties`.
    """

    summary: str
    settings_schema: Any = None


@dataclass(frozen=True)
class Job:
    """A submission.

    Attributes:
        id: The job's id.
        scene: The scene to render; `blender.open` takes it.
        frames: The frames that were asked for, ascending within a range, no frame twice.
        settings: The job's settings, already checked against the schema.
    """

    id: str
    scene: str
    frames: List[FrameRange] = field(default_factory=list)
    settings: Any = None


@dataclass(frozen=True)
class PlannedTask:
    """One unit of a plan.

    Attributes:
        name: Unique in the job; 1 to 128 characters of `A-Z a-z 0-9 . _ -`.
        frame: The frame it belongs to, if it belongs to one; for display and retry.
        after: Names of tasks that stand before it in the plan and must be done first.
        payload: Anything the plugin wants back in `render`, at most 64 KiB. Another release of the same plugin may be the one that gets it: jobs move to a newer one, and back if that fails.
    """

    name: str
    frame: Optional[int] = None
    after: List[str] = field(default_factory=list)
    payload: Any = None


@dataclass(frozen=True)
class Page:
    """A part of a plan.

    Attributes:
        tasks: Up to 4,096 tasks.
        next: Passed to `plan` for the page after this one; absent on the last.
    """

    tasks: List[PlannedTask] = field(default_factory=list)
    next: Optional[str] = None


@dataclass(frozen=True)
class Task:
    """One attempt at a task, as handed to `render`.

    Attributes:
        job: The job it is part of.
        name: Its name in the plan.
        frame: Its frame in the plan.
        payload: Its payload in the plan.
        attempt: 1 for the first attempt, 2 for the second, ...
    """

    job: Job
    name: str
    attempt: int
    frame: Optional[int] = None
    payload: Any = None


class Outcome(Enum):
    """How an attempt ended when it did not fail."""

    DONE = "done"
    """The task is finished and all its files are written."""

    YIELDED = "yielded"
    """The host asked for it with `directive.yield`; another attempt goes on."""
