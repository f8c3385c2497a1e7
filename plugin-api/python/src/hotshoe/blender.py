# Made from the contract by `cargo run -p codegen`, not by hand.
# ruff: noqa: D107, E501, F401
"""Drives headless Blender."""

from __future__ import annotations

from typing import Any, List, Optional

from . import _process
from .gpu import Lease
from .image import Image
from .types import File, FrameRange, SceneInfo, Shot


class Scene(_process.Handle):
    """A scene loaded in a worker. Dropping it restores everything that was
    `set` and gives the worker back.
    """

    kind = "scene"

    def inspect(self) -> SceneInfo:
        """Says what the scene is, with everything that was `set`.

        Fails with `blender` if Blender fails, `canceled`.
        """
        answer: SceneInfo = _process.ask("scene.inspect", SceneInfo, scene=self)
        return answer

    def set(self, path: str, value: Any) -> None:
        """Sets a property of the scene until the scene is dropped.

        `path` is an RNA path below the scene, from this list: `render.*`
        (but no paths, no `ffmpeg` and no `bake`), `cycles.*` (but neither
        `device` nor `shading_system`),
        `eevee.*`, `display.shading.*`, `display.render_aa`,
        `view_settings.*`, `frame_step`, or one of the names `camera` (name
        of a camera object), `view_layer` (name of the only view layer to
        render), `engine` (`CYCLES`, `EEVEE` or `WORKBENCH`, whatever
        this Blender calls them), `scene` (name of another scene of the file;
        to be set first) and `persistent_data` (`auto`, `on` or `off`: whether
        Blender keeps geometry and textures from frame to frame; `auto` does
        so where it is proven that no picture changes). `value` is a JSON
        number, text, boolean or an array of them.

        Fails with `denied` for a path not on the list, `not-found` if the
        scene has no such property, camera or view layer,
        `invalid-argument` for a value of another type or out of the
        property's range, `unsupported` if the scene then asks for a device
        that is not there, `canceled`.
        """
        _process.ask("scene.set", None, scene=self, path=path, value=_process.text(value))

    def write(self, frame: int, name: Optional[str] = None) -> List[File]:
        """Lets Blender render a frame and write its files into the job's
        output folder, as `blender -b scene -f FRAME` would: compositor,
        sequencer, views and File Output nodes included. The scene's frame
        range is that one frame meanwhile.

        `name` is the file name without its ending, `#` standing for digits
        of the frame; absent means the name that the scene gives. Files
        appear whole or not at all. A scene that writes movies leaves PNG
        pictures here, of which `encode` makes them.

        Fails with `blender` if Blender fails, `host` if the folder cannot be
        written, `canceled`.
        """
        answer: List[File] = _process.ask("scene.write", List[File], scene=self, frame=frame, name=name)
        return answer

    def start(self, shot: Shot) -> Render:
        """Starts to render a shot into an image and returns at once. One shot
        of a scene renders at a time, others wait in order.

        Without compositor, sequencer and views: what the camera sees. A part
        of a frame is not denoised and not sampled adaptively.

        Fails with `invalid-argument` for a frame that Blender does not render;
        all else comes from `render.result`.
        """
        answer: Render = _process.ask("scene.start", Render, scene=self, shot=shot)
        return answer

    def develop(self, image: Image, frame: int, name: Optional[str] = None) -> File:
        """Turns a finished picture into a file of the job with the scene's
        view transform and file format: one file, also of a scene with several
        views. `name` as for `write`.

        Fails like `write`.
        """
        answer: File = _process.ask("scene.develop", File, scene=self, image=image, frame=frame, name=name)
        return answer

    def encode(self, frames: FrameRange, pictures: Optional[str] = None, name: Optional[str] = None) -> List[File]:
        """Lets Blender make a movie of pictures that the job has written or kept, one
        a frame, with the scene's own codec, frame rate and sound; a movie a view if
        views have files of their own. The movie appears whole or not at all.

        `pictures` is the name that `write` was given. `name` is that of the movie,
        whose ending says what it is: `.mp4`, `.mkv`, `.mov`, `.avi` or `.webm`;
        absent means the name and kind that the scene gives.

        Fails with `not-found` for a frame without its picture, `invalid-argument`
        for another ending, `unsupported` for pictures that no movie is made of
        (OpenEXR files of several layers, Cineon, DPX), `limit` for more than
        100,000 frames, `blender` if Blender fails, `host` if the folder cannot be
        written, `canceled`.
        """
        answer: List[File] = _process.ask("scene.encode", List[File], scene=self, frames=frames, pictures=pictures, name=name)
        return answer


class Render(_process.Handle):
    """A shot on its way. Dropping it cancels the shot."""

    kind = "render"

    def result(self) -> Image:
        """Waits for the picture. May be called once; again is `invalid-argument`.

        Fails with `invalid-argument` for a region outside the picture or a
        sample range out of bounds, `unsupported` for samples of an engine
        without them or a scene that asks for a device that is not leased,
        `blender` if Blender fails, `canceled`.
        """
        answer: Image = _process.ask("render.result", Image, render=self)
        return answer


def open(scene: str, lease: Optional[Lease] = None) -> Scene:
    """Opens a scene of the job in a worker that is the plugin's alone until
    the scene and its renders are dropped. Waits until a worker is free. An
    attempt holds one scene at a time.

    `lease` says on which devices to render. Without one the host's default
    device is used, never another one in its place: a scene that asks for a
    GPU is not rendered on the CPU, with a lease of the CPU neither, unless
    whoever submitted the job said so.

    Fails with `not-found` for a scene that is not the job's, `limit` for a
    second scene, `blender` if Blender cannot load it, `unsupported` for a
    device that is not there or that this Blender cannot render on,
    `canceled`.
    """
    answer: Scene = _process.ask("blender.open", Scene, scene=scene, lease=lease)
    return answer
