"""Write Hotshoe renderer plugins in Python.

A renderer is a class that derives from `Renderer`: which tasks a job consists of, and
how one task is rendered. Blender, pixels, files and devices belong to the host; the
plugin holds handles to them, which end with the attempt that they were made in, or
with their `with` block::

    import hotshoe
    from hotshoe import blender


    class Twice(hotshoe.Renderer):
        name = "twice"
        version = "1.0.0"
        summary = "renders every frame twice as large as the scene says"

        def render(self, task: hotshoe.Task) -> None:
            with blender.open(task.job.scene) as scene:
                scene.set("render.resolution_percentage", 200)
                scene.write(hotshoe.frame_of(task))


    hotshoe.serve(Twice())

Beside it lies `plugin.toml`::

    name = "twice"
    version = "1.0.0"
    api = "0.1.0"
    command = ["python3", "main.py"]
    capabilities = ["blender"]

What the host offers stands in `blender`, `image`, `gpu`, `host` and `state`, one module
an interface of the contract.
"""

from . import blender, gpu, host, image, state
from ._process import Case, Handle, ProtocolError
from ._serve import Renderer, frame_of, frames, page_of_frames, serve
from .renderer import Description, Job, Outcome, Page, PlannedTask, Task
from .types import (
    BlenderError,
    CanceledError,
    DeniedError,
    Directive,
    Error,
    ErrorCode,
    File,
    FrameRange,
    HostError,
    InvalidArgumentError,
    LimitError,
    NotFoundError,
    Region,
    SampleRange,
    SceneInfo,
    Shot,
    UnsupportedError,
)

__all__ = [
    "BlenderError",
    "CanceledError",
    "Case",
    "DeniedError",
    "Description",
    "Directive",
    "Error",
    "ErrorCode",
    "File",
    "FrameRange",
    "Handle",
    "HostError",
    "InvalidArgumentError",
    "Job",
    "LimitError",
    "NotFoundError",
    "Outcome",
    "Page",
    "PlannedTask",
    "ProtocolError",
    "Region",
    "Renderer",
    "SampleRange",
    "SceneInfo",
    "Shot",
    "Task",
    "UnsupportedError",
    "blender",
    "frame_of",
    "frames",
    "gpu",
    "host",
    "image",
    "page_of_frames",
    "serve",
    "state",
]
