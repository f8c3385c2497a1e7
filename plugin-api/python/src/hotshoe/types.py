# Made from the contract by `cargo run -p codegen`, not by hand.
# ruff: noqa: D107, E501, F401
"""Values that the other interfaces share."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Callable, Dict, List, Optional


class ErrorCode(Enum):
    """What went wrong, for a program."""

    INVALID_ARGUMENT = "invalid_argument"
    """An argument is malformed, out of range or contradicts another."""

    NOT_FOUND = "not_found"
    """The named thing (scene, key, camera, view layer, property) does not exist."""

    DENIED = "denied"
    """The grant of this release does not cover the call."""

    UNSUPPORTED = "unsupported"
    """This host, Blender or scene cannot do it; the message says what can."""

    CANCELED = "canceled"
    """The job was canceled while the call was under way."""

    LIMIT = "limit"
    """A limit was hit; the message names the limit and its value."""

    BLENDER = "blender"
    """Blender failed or crashed."""

    HOST = "host"
    """The host failed: disk full, file not writable, an internal error."""


class Error(Exception):
    """What went wrong, for a program and for a person."""

    def __init__(self, code: ErrorCode, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class InvalidArgumentError(Error):
    """An argument is malformed, out of range or contradicts another."""

    def __init__(self, message: str) -> None:
        super().__init__(ErrorCode.INVALID_ARGUMENT, message)


class NotFoundError(Error):
    """The named thing (scene, key, camera, view layer, property) does not exist."""

    def __init__(self, message: str) -> None:
        super().__init__(ErrorCode.NOT_FOUND, message)


class DeniedError(Error):
    """The grant of this release does not cover the call."""

    def __init__(self, message: str) -> None:
        super().__init__(ErrorCode.DENIED, message)


class UnsupportedError(Error):
    """This host, Blender or scene cannot do it; the message says what can."""

    def __init__(self, message: str) -> None:
        super().__init__(ErrorCode.UNSUPPORTED, message)


class CanceledError(Error):
    """The job was canceled while the call was under way."""

    def __init__(self, message: str) -> None:
        super().__init__(ErrorCode.CANCELED, message)


class LimitError(Error):
    """A limit was hit; the message names the limit and its value."""

    def __init__(self, message: str) -> None:
        super().__init__(ErrorCode.LIMIT, message)


class BlenderError(Error):
    """Blender failed or crashed."""

    def __init__(self, message: str) -> None:
        super().__init__(ErrorCode.BLENDER, message)


class HostError(Error):
    """The host failed: disk full, file not writable, an internal error."""

    def __init__(self, message: str) -> None:
        super().__init__(ErrorCode.HOST, message)


ERRORS: Dict[ErrorCode, Callable[[str], Error]] = {
    ErrorCode.INVALID_ARGUMENT: InvalidArgumentError,
    ErrorCode.NOT_FOUND: NotFoundError,
    ErrorCode.DENIED: DeniedError,
    ErrorCode.UNSUPPORTED: UnsupportedError,
    ErrorCode.CANCELED: CanceledError,
    ErrorCode.LIMIT: LimitError,
    ErrorCode.BLENDER: BlenderError,
    ErrorCode.HOST: HostError,
}
"""The exception of each code."""


@dataclass(frozen=True)
class FrameRange:
    """Frames `first`, `first + step`, ... up to and including `last` if met.

    Attributes:
        first: First frame, 0 to 1,048,574 (what Blender renders as an animation).
        last: Last frame, not less than `first`, same range.
        step: Distance between two frames, at least 1.
    """

    first: int
    last: int
    step: int


@dataclass(frozen=True)
class Region:
    """A rectangle in pixels. The origin is the lower left corner of the
    picture, x grows to the right and y upwards, as in Blender.

    Attributes:
        x: Left edge, in pixels.
        y: Lower edge, in pixels.
        width: Width in pixels, at least 1.
        height: Height in pixels, at least 1.
    """

    x: int
    y: int
    width: int
    height: int


@dataclass(frozen=True)
class SampleRange:
    """Some of the samples of a frame. Disjoint ranges of one frame are parts
    of one sample sequence: together they give the same picture.

    Attributes:
        offset: Number of the first sample, from 0.
        count: How many samples, at least 1; `offset + count` is at most `total`.
        total: How many samples the whole frame has, 1 to 16,777,216.
    """

    offset: int
    count: int
    total: int


@dataclass(frozen=True)
class Shot:
    """What Blender renders in one step.

    Attributes:
        frame: The frame, in Blender's numbering.
        region: Only this part of the picture; the whole picture if absent.
        samples: Only these samples (Cycles only); all that the scene says if absent.
    """

    frame: int
    region: Optional[Region] = None
    samples: Optional[SampleRange] = None


@dataclass(frozen=True)
class SceneInfo:
    """What a scene is, as Blender sees it after loading.

    Attributes:
        blender_version: Version of the Blender that answers, e.g. `4.5.15`.
        engine: Render engine id in that Blender: `CYCLES`, `BLENDER_EEVEE`, ...
        frame_start: First frame of the scene's own range.
        frame_end: Last frame of the scene's own range.
        frame_step: Frame step of the scene, at least 1.
        fps: Frames per second.
        width: Width in pixels of the rendered picture (resolution times percentage).
        height: Height in pixels of the rendered picture.
        samples: Samples a pixel of the engine in use; 0 if it has no such number.
        camera: The active camera, if there is one.
        cameras: Names of all cameras of the scene.
        view_layers: Names of all view layers, in the scene's order.
        views: Names of the views of a multi-view scene; empty for a plain one.
        file_format: File format of the scene's output: `PNG`, `OPEN_EXR`, `FFMPEG`, ...
        is_movie: Whether that format is a movie: `write` leaves PNG pictures then, and `encode` makes the movie of them.
        post_processing: Whether a compositor or sequencer works on the picture after rendering.
        missing_files: Files the scene wants and that do not exist.
        blocked_scripts: Scripts and drivers in the scene that Hotshoe keeps from running.
        unbaked_simulations: Simulations of the scene that are not baked, such as `cloth of 'Flag'`. A frame with such comes out as it does for `blender -a` whatever the order, but rendering the frames in order, one after another, saves simulating those before it again.
    """

    blender_version: str
    engine: str
    frame_start: int
    frame_end: int
    frame_step: int
    fps: float
    width: int
    height: int
    samples: int
    file_format: str
    is_movie: bool
    post_processing: bool
    camera: Optional[str] = None
    cameras: List[str] = field(default_factory=list)
    view_layers: List[str] = field(default_factory=list)
    views: List[str] = field(default_factory=list)
    missing_files: List[str] = field(default_factory=list)
    blocked_scripts: List[str] = field(default_factory=list)
    unbaked_simulations: List[str] = field(default_factory=list)


@dataclass(frozen=True)
class File:
    """A file that a render left in the job's output folder.

    Attributes:
        name: Its name in that folder, with `/` between folders.
        size: Its size in bytes.
        kept: True if it was there before and was kept, because the job asks for it.
    """

    name: str
    size: int
    kept: bool


class DeviceKind(Enum):
    """What a device is."""

    CPU = "cpu"
    """Threads of the host's processors."""

    CUDA = "cuda"
    """NVIDIA through CUDA."""

    OPTIX = "optix"
    """NVIDIA through OptiX."""

    HIP = "hip"
    """AMD through HIP."""

    ONEAPI = "oneapi"
    """Intel through oneAPI."""

    METAL = "metal"
    """Apple through Metal."""


@dataclass(frozen=True)
class Device:
    """Something that renders.

    Attributes:
        id: Stable id on this host, e.g. `cpu` or a GPU's UUID.
        name: The name its maker gave it.
        kind: What it is.
        memory: Its memory in bytes; the host's memory for a CPU.
        units: How many leases of one unit fit: threads of a CPU, 1 for a GPU.
    """

    id: str
    name: str
    kind: DeviceKind
    memory: int
    units: int


class Directive(Enum):
    """How a plugin should go on with its task."""

    PROCEED = "proceed"
    """Go on."""

    YIELD = "yield"
    """Save what is worth saving and return `yielded` soon."""

    CANCEL = "cancel"
    """Stop; the result is not wanted any more."""
