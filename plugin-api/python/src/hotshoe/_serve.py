"""What a renderer is, and how its process answers the host."""

from __future__ import annotations

import os
import sys
import threading
import traceback
from typing import Any, Callable, Dict, Iterator, List, Mapping, Optional

from . import _process
from .renderer import Description, Job, Outcome, Page, PlannedTask, Task
from .types import Error, InvalidArgumentError

PROTOCOL = 1
MAX_TASKS = 4096
"""How many tasks a page may hold."""


class Renderer:
    """A renderer plugin: derive from it, and give an instance to `serve`."""

    name: str
    """As in `plugin.toml`."""

    version: str
    """As in `plugin.toml`."""

    summary: str
    """One sentence for a list of renderers, at most 200 characters."""

    settings_schema: Mapping[str, Any] = {"type": "object", "additionalProperties": False}
    """JSON Schema (draft 2020-12) of the settings; the host checks a job against it, so
    that `plan` and `render` only ever see settings that fit. What a job leaves out is
    left out here, too, whatever `default` says."""

    def plan(self, job: Job, cursor: Optional[str]) -> Page:
        """Returns the page of the job's plan at `cursor`, the first one without.

        One task a frame, unless a renderer says otherwise.
        """
        return page_of_frames(job, cursor)

    def render(self, task: Task) -> Optional[Outcome]:
        """Renders one task; to return nothing means that it is done."""
        raise NotImplementedError(f"{type(self).__name__}.render")


def _spans(job: Job) -> List[range]:
    return [range(span.first, span.last + 1, span.step) for span in job.frames]


def frames(job: Job) -> Iterator[int]:
    """Iterates over the frames of a job."""
    for span in _spans(job):
        yield from span


def frame_of(task: Task) -> int:
    """Returns the task's frame; fails if it was planned without one."""
    if task.frame is None:
        raise InvalidArgumentError(f"task {task.name} has no frame")
    return task.frame


def page_of_frames(job: Job, cursor: Optional[str]) -> Page:
    """Plans one task a frame."""
    try:
        start = int(cursor or "0")
    except ValueError:
        raise InvalidArgumentError("not a cursor of this plan") from None
    skip = start
    tasks: List[PlannedTask] = []
    spans = _spans(job)
    for span in spans:
        part = span[skip : skip + MAX_TASKS - len(tasks)]
        skip = max(0, skip - len(span))
        tasks.extend(PlannedTask(f"frame-{frame}", frame=frame) for frame in part)
    total = sum(len(span) for span in spans)
    end = start + len(tasks)
    return Page(tasks, next=str(end) if end < total else None)


def serve(renderer: Renderer) -> None:
    """Answers the host until it hangs up, or asks this process to end."""
    kind = type(renderer)
    for name in ("name", "version", "summary"):
        if not hasattr(renderer, name):
            raise TypeError(f"{kind.__name__} has no {name}")
    if kind.render is Renderer.render:
        raise TypeError(f"{kind.__name__} has no method render(self, task)")
    # What is printed is read line by line.
    for stream in (sys.stdout, sys.stderr):
        getattr(stream, "reconfigure", lambda **_: None)(line_buffering=True)
    _Server(renderer, _process.connect()).run()


class _Server:
    def __init__(self, renderer: Renderer, connection: _process.Connection) -> None:
        self._renderer = renderer
        self._connection = connection
        self._methods: Dict[str, Callable[[Dict[str, Any]], Any]] = {
            "renderer.describe": self._describe,
            "renderer.plan": self._plan,
            "renderer.render": self._render,
        }

    def run(self) -> None:
        self._connection.read(self._serve)
        # Calls may be under way that nobody waits for any more.
        os._exit(0)

    def _serve(self, method: str, params: Dict[str, Any], number: Any) -> None:
        if number is None:
            return  # `$/cancel`: what was called sees it by `host.turn`.
        if method == "hello":
            of = self._renderer
            hello = {"protocol": PROTOCOL, "name": of.name, "version": of.version, "features": []}
            self._connection.send({"id": number, "result": hello})
        elif method == "ping":
            self._connection.send({"id": number, "result": None})
        elif method == "shutdown":
            self._connection.send({"id": number, "result": None})
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(0)
        elif method in self._methods:
            # The reader goes on meanwhile: it answers pings.
            work = threading.Thread(target=self._call, args=(method, params, number), daemon=True)
            work.start()
        else:
            error = {"code": _process.METHOD_NOT_FOUND, "message": f"no method '{method}'"}
            self._connection.send({"id": number, "error": error})

    def _call(self, method: str, params: Dict[str, Any], number: Any) -> None:
        attempt = params.get("attempt")
        if attempt is not None:
            _process.attempt.set(attempt)
            self._connection.attempts.add(attempt)
        try:
            answer: Dict[str, Any] = {"result": _process.encode(self._methods[method](params))}
        except Error as error:
            data = {"code": error.code.value, "message": error.message}
            answer = {
                "error": {"code": _process.CONTRACT_ERROR, "message": error.message, "data": data}
            }
        except BaseException as error:  # noqa: BLE001
            traceback.print_exc()
            said = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
            trace = "\n".join(f"in {place}" for place in _process.places_of(error))
            data = {"trace": trace}
            answer = {"error": {"code": _process.INTERNAL_ERROR, "message": said, "data": data}}
        if attempt is not None:
            self._connection.end(attempt)
        self._connection.send({"id": number, **answer})

    def _describe(self, params: Dict[str, Any]) -> Description:
        return Description(self._renderer.summary, settings_schema=dict(self._renderer.settings_schema))

    def _plan(self, params: Dict[str, Any]) -> Page:
        job = _process.decode(Job, params["job"])
        return self._renderer.plan(job, params.get("cursor"))

    def _render(self, params: Dict[str, Any]) -> Outcome:
        outcome = self._renderer.render(_process.decode(Task, params["task"]))
        return Outcome.DONE if outcome is None else outcome
