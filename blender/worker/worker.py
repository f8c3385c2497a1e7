# SPDX-License-Identifier: MIT OR Apache-2.0
"""The worker: one headless Blender that a Hotshoe host drives.

Runs in Blender 3.4 to 5.x, as `blender --background --python worker.py` or
under a Python that has the `bpy` module. Serves JSON-RPC 2.0, one message a
line, on the socket whose number is in HOTSHOE_FD, which the host handed down.

Owns the loaded scene and everything that was changed in it since loading.
Refuses to run scripts that a scene carries, and to set what is not on its list.
Never decides what to render: that is the plugin's, through the host.
"""

import json
import math
import os
import queue
import re
import shutil
import socket
import sys
import threading
import time
import traceback

import bpy
import imbuf

PROTOCOL = 1
# How often a request that takes long says that it is still alive, in seconds.
HEARTBEAT = 0.5
MAX_LINE = 16 * 1024 * 1024
# Cycles' own limit.
MAX_SAMPLES = 16_777_216
NO_DENOISER = "the scene denoises, which this Blender cannot (it is built without OpenImageDenoise)"
NO_DENOISER_HINT = "turn denoising off in the scene, or use another Blender: `hotshoe blender install` gets one"
MOVIE_FORMATS = {"AVI_JPEG", "AVI_RAW", "FFMPEG", "FRAMESERVER", "H264", "THEORA", "XVID"}
# Endings of movies, and the container that each stands for; which codecs fit into a WebM, the first by default.
CONTAINERS = {".mp4": "MPEG4", ".mkv": "MKV", ".mov": "QUICKTIME", ".avi": "AVI", ".webm": "WEBM"}
WEB_CODECS = {"codec": ["WEBM", "AV1"], "audio_codec": ["OPUS", "VORBIS", "NONE"]}
# Pictures with the view transform in them, and without.
DISPLAYED = {".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".tga", ".webp", ".jp2", ".j2c", ".rgb"}
LINEAR = {".exr", ".hdr"}


class Failure(Exception):
    """An error for the other side: a code of the contract and one sentence."""

    def __init__(self, code, message):
        super().__init__(message)
        self.code = code


# --- the socket --------------------------------------------------------------


class Peer:
    """The host's end of the line. Any thread may send, one thread reads."""

    def __init__(self, sock):
        self._sock = sock
        self._lock = threading.Lock()

    def send(self, message):
        line = json.dumps({"jsonrpc": "2.0", **message}, separators=(",", ":"), ensure_ascii=False)
        # A file name of the scene may be no text at all.
        with self._lock:
            self._sock.sendall(line.encode("utf-8", "replace") + b"\n")

    def notify(self, method, **params):
        self.send({"method": method, "params": params})

    def requests(self):
        """Yields messages until the host closes the line."""
        with self._sock.makefile("rb") as lines:
            while True:
                line = lines.readline(MAX_LINE + 1)
                if not line or len(line) > MAX_LINE:
                    return
                yield line


class Progress:
    """Tells the host, while a request runs, that and how far it is going."""

    def __init__(self, peer):
        self._peer = peer
        self._lock = threading.Lock()
        self._request = None
        self._started = 0.0
        self._samples = None
        self._activity = 0
        threading.Thread(target=self._beat, daemon=True).start()

    def begin(self, request):
        with self._lock:
            self._request, self._started, self._samples = request, time.monotonic(), None

    def end(self):
        with self._lock:
            self._request = None

    def status(self, text):
        """Reads the samples out of a status line of Blender (5.x gives one)."""
        self._activity += 1
        match = re.search(r"(?:Sample|Rendering)\s+(\d+)\s*/\s*(\d+)", text or "")
        if match:
            self.steps(int(match.group(1)), int(match.group(2)))

    def steps(self, done, wanted):
        with self._lock:
            self._samples = [done, wanted]

    def _beat(self):
        while True:
            time.sleep(HEARTBEAT)
            with self._lock:
                if self._request is None:
                    continue
                params = {
                    "request": self._request,
                    "seconds": round(time.monotonic() - self._started, 3),
                    "samples": self._samples,
                    "activity": self._activity,
                }
            try:
                self._peer.notify("progress", **params)
            except OSError:
                return


# --- what may be set ---------------------------------------------------------

ALLOWED = re.compile(
    r"((render|cycles|eevee|display\.shading|view_settings)(\.[a-z][a-z0-9_]*){1,3}|display\.render_aa|frame_step)$"
)
# The device is the lease's to choose, the files are the host's.
DENIED = re.compile(r"render\.(ffmpeg|filepath|bake)\b|cycles\.(device|shading_system)$|.*(path|directory)$")
ENGINES = {
    "CYCLES": ["CYCLES"],
    "EEVEE": ["BLENDER_EEVEE_NEXT", "BLENDER_EEVEE"],
    "WORKBENCH": ["BLENDER_WORKBENCH"],
}


class Journal:
    """Remembers what a property was, and puts it back in reverse order."""

    def __init__(self):
        self._entries = []

    def set(self, owner, name, value):
        before = getattr(owner, name)
        if hasattr(before, "__len__") and not isinstance(before, str):
            before = tuple(before)
        setattr(owner, name, value)
        self._entries.append((owner, name, before))

    def keep(self, owner, *names):
        """Remembers properties that Blender is about to change by itself."""
        for name in names:
            self._entries.append((owner, name, getattr(owner, name)))

    def __len__(self):
        return len(self._entries)

    def restore(self, length=0):
        """Puts back all but the first entries."""
        while len(self._entries) > length:
            owner, name, before = self._entries.pop()
            setattr(owner, name, before)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.restore()


def check_value(prop, path, value):
    """Fails unless the property takes the value as it is, unclamped."""
    wanted = {
        "BOOLEAN": (bool, "true or false"),
        "INT": (int, "a whole number"),
        "FLOAT": ((int, float), "a number"),
        "STRING": (str, "text"),
        "ENUM": (str, "one of its names"),
    }.get(prop.type)
    if wanted is None or prop.is_readonly:
        raise Failure("denied", f"{path} cannot be set")
    array = getattr(prop, "is_array", False)
    values = value if array and isinstance(value, list) else [value]
    if array and len(values) != prop.array_length:
        raise Failure("invalid-argument", f"{path} takes {prop.array_length} values")
    for item in values:
        if not isinstance(item, wanted[0]) or (isinstance(item, bool) and prop.type != "BOOLEAN"):
            raise Failure("invalid-argument", f"{path} takes {wanted[1]}, not {json.dumps(item)}")
        if prop.type in {"INT", "FLOAT"} and not prop.hard_min <= item <= prop.hard_max:
            span = f"{prop.hard_min:,} to {prop.hard_max:,}"
            raise Failure("invalid-argument", f"{path} takes {span}, not {item}")


# --- the scene ---------------------------------------------------------------


class Scene:
    """The loaded scene file, and everything the plugin set in it."""

    def __init__(self, path, stamp, trust):
        self.path = path
        self.stamp = stamp
        self.trust = trust
        self.settings = Journal()
        # What the settings were set to, in order, so that they can be set again after a reload.
        self.applied = []
        # Whether it may be rendered on the CPU though it asks for a GPU.
        self.cpu = False
        self.threads = None
        self.name = None
        self.load()

    @property
    def data(self):
        return bpy.context.scene

    def load(self):
        try:
            bpy.ops.wm.open_mainfile(filepath=self.path, load_ui=False, use_scripts=self.trust)
        except RuntimeError as error:
            hint = "open it in Blender and save it again, or take a newer Blender with --blender PATH"
            raise Failure("blender", f"Blender cannot load the scene: {first_line(error)}\n{hint}") from None
        self.own_persistence = {scene.name: scene.render.use_persistent_data for scene in bpy.data.scenes}
        for scene in bpy.data.scenes:
            scene.render.use_persistent_data = False
        self.own = self.data.name
        self.blocked = [] if self.trust else blocked_scripts() + stop_style_modules()
        # The frames of the movie that is being encoded.
        self.encoding = None
        # Which frame an unbaked simulation has come to; none since the file was loaded.
        self.simulated = None
        # What was set when the scene was rendered last, and whether render data is kept since then.
        self.rendered = None
        self.persistence = "auto"

    def prepare(self, name, threads, cpu):
        """Chooses the scene of the file, and what the host decides."""
        self.name, self.threads, self.cpu = name, threads, cpu
        choose_scene(name or self.own)
        self.writes_movies = self.data.render.is_movie_format
        if threads:
            self.data.render.threads_mode, self.data.render.threads = "FIXED", threads
        self.check_device()

    def reload(self):
        """Loads the file anew and sets what was set: a simulation goes in one direction only."""
        applied = self.applied
        self.settings, self.applied = Journal(), []
        self.load()
        self.prepare(self.name, self.threads, self.cpu)
        for path, value in applied:
            self.set(path, value)

    @staticmethod
    def stamp_of(path):
        try:
            info = os.stat(path)
        except OSError as error:
            raise Failure("not-found", f"cannot read the scene: {error.strerror}") from None
        return (info.st_ino, info.st_size, info.st_mtime_ns)

    def inspect(self):
        scene, render = self.data, self.data.render
        width, height = self.size()
        return {
            "blender_version": ".".join(map(str, bpy.app.version)),
            "engine": render.engine,
            "frame_start": scene.frame_start,
            "frame_end": scene.frame_end,
            "frame_step": scene.frame_step,
            "fps": render.fps / render.fps_base,
            "width": width,
            "height": height,
            "samples": self.samples(),
            "camera": scene.camera.name if scene.camera else None,
            "cameras": sorted(o.name for o in scene.objects if o.type == "CAMERA"),
            "view_layers": [layer.name for layer in scene.view_layers],
            "views": [v.name for v in render.views if v.use] if render.use_multiview else [],
            "file_format": render.image_settings.file_format,
            "is_movie": render.is_movie_format,
            "post_processing": self.post_processing(),
            "references": references(),
            "blocked_scripts": self.blocked,
            "unbaked_simulations": unbaked_simulations(scene),
            "warnings": self.warnings(),
        }

    def size(self):
        """Width and height of the picture, rounded as Blender does."""
        render = self.data.render
        return tuple(side * render.resolution_percentage // 100 for side in (render.resolution_x, render.resolution_y))

    def warnings(self):
        """What will go wrong with this scene in this Blender, in sentences."""
        lacking = [f"{NO_DENOISER}: its frames will fail; {NO_DENOISER_HINT}"] if self.lacks_denoiser() else []
        return lacking + old_file() + unknown_nodes()

    def lacks_denoiser(self):
        if self.data.render.engine != "CYCLES" or not self.data.cycles.use_denoising or has_denoiser():
            return False
        return any(layer.use and layer.cycles.use_denoising for layer in self.data.view_layers)

    def check_denoiser(self):
        # Blender itself fails the first frame, and leaves the next ones blank without a word.
        if self.lacks_denoiser():
            raise Failure("unsupported", f"{NO_DENOISER}\n{NO_DENOISER_HINT}")

    def samples(self):
        engine = self.data.render.engine
        if engine == "CYCLES":
            return self.data.cycles.samples
        if "EEVEE" in engine:
            return self.data.eevee.taa_render_samples
        return 0

    def post_processing(self):
        scene, render = self.data, self.data.render
        sequencer = scene.sequence_editor
        strips = getattr(sequencer, "strips_all", None) or getattr(sequencer, "sequences_all", None)
        return bool(
            (render.use_compositing and scene.use_nodes and compositor(scene))
            or (render.use_sequencer and strips)
        )

    # setting

    def restored(self):
        """Undoes all that was set; false if that failed and only a reload helps."""
        try:
            self.settings.restore()
        except (TypeError, AttributeError, ReferenceError):
            traceback.print_exc()
            return False
        self.applied, self.persistence = [], "auto"
        return True

    def set(self, path, value):
        before = len(self.settings)
        try:
            self._set(path, value)
            self.check_device()
        except Failure:
            self.settings.restore(before)
            raise
        self.applied.append((path, value))

    def _set(self, path, value):
        special = {
            "camera": self._set_camera,
            "view_layer": self._set_view_layer,
            "engine": self._set_engine,
            "persistent_data": self._set_persistence,
            "scene": self._set_scene,
        }
        if path in special:
            if not isinstance(value, str):
                raise Failure("invalid-argument", f"{path} takes a name, not {json.dumps(value)}")
            return special[path](value)
        if not ALLOWED.match(path) or DENIED.match(path):
            raise Failure("denied", f"{path} is not among the properties that a plugin may set")
        owner, name = self.data, path
        while "." in name:
            step, name = name.split(".", 1)
            owner = getattr(owner, step, None)
        prop = owner.bl_rna.properties.get(name) if hasattr(owner, "bl_rna") else None
        if prop is None:
            raise Failure("not-found", f"this Blender has no property {path}")
        check_value(prop, path, value)
        try:
            if path == "render.image_settings.file_format":
                choose_format(owner, value, self.settings)
            else:
                self.settings.set(owner, name, value)
        except TypeError as error:
            raise Failure("invalid-argument", f"{path}: {first_line(error)}") from None

    def _set_camera(self, name):
        camera = self.data.objects.get(name)
        if camera is None or camera.type != "CAMERA":
            known = [o.name for o in self.data.objects if o.type == "CAMERA"]
            raise Failure("not-found", f"the scene has no camera '{name}'\nit has {listing(known)}")
        # A marker would switch back to its own camera at the next frame.
        for marker in self.data.timeline_markers:
            if marker.camera:
                self.settings.set(marker, "camera", None)
        self.settings.set(self.data, "camera", camera)

    def _set_view_layer(self, name):
        known = [layer.name for layer in self.data.view_layers]
        if name not in known:
            raise Failure("not-found", f"the scene has no view layer '{name}'\nit has {listing(known)}")
        for layer in self.data.view_layers:
            self.settings.set(layer, "use", layer.name == name)

    def _set_persistence(self, word):
        if word not in {"auto", "on", "off"}:
            raise Failure("invalid-argument", f"persistent_data takes 'auto', 'on' or 'off', not '{word}'")
        self.persistence = word

    def _set_scene(self, name):
        if self.settings:
            raise Failure("invalid-argument", "scene is to be set first: what was set before belongs to another scene")
        choose_scene(name)
        self.prepare(name, self.threads, self.cpu)

    def _set_engine(self, name):
        for engine in ENGINES.get(name, []):
            try:
                self.settings.set(self.data.render, "engine", engine)
                return
            except TypeError:
                continue
        raise Failure("invalid-argument", f"this Blender has no engine '{name}'\nuse one of {listing(ENGINES)}")

    # rendering

    def keep_render_data(self, *how):
        """Lets Blender keep geometry and textures until the next frame, or lets go of them.

        `how` is what differs between this render and others beside the settings and the frame.
        """
        render = self.data.render
        keeps = {"on": True, "off": False}.get(self.persistence)
        if keeps is None:
            # Blender itself shows other frames of a simulation with it than without.
            is_own = self.own_persistence[self.data.name]
            keeps = may_keep_render_data(self.data) or (is_own and bool(unbaked_simulations(self.data)))
        now = (self.data.name, self.applied[:], how)
        if not keeps or self.rendered != now:
            # Turning it off lets go of what is kept. What was kept under other settings can be wrong.
            render.use_persistent_data = False
        render.use_persistent_data = keeps
        self.rendered = now

    def simulate_up_to(self, frame, directory):
        """Brings unbaked simulations to where `blender -a` has them before it renders a frame.

        They come out as there only if the frames from the scene's first one on are rendered one after
        another; small pictures will do, `frame_set` will not.
        """
        scene = self.data
        if not unbaked_simulations(scene):
            return
        before = range(scene.frame_start, frame, max(scene.frame_step, 1))
        if self.simulated is not None and self.simulated not in before:
            self.reload()
            scene = self.data
        missing = [earlier for earlier in before if self.simulated is None or earlier > self.simulated]
        if missing:
            aside = os.path.join(os.path.dirname(directory), "simulated")
            with Journal() as changed:
                self._cheaply(changed)
                changed.set(scene.render, "filepath", os.path.join(aside, "frame_"))
                for earlier in missing:
                    self._animate(earlier, changed)
            shutil.rmtree(aside, ignore_errors=True)
        self.simulated = frame

    def _cheaply(self, changed):
        """Makes the next pictures small: nobody looks at them."""
        render, engine = self.data.render, self.data.render.engine
        smallest = min(max(render.resolution_x, render.resolution_y), 64)
        percentage = max(1, math.ceil(100 * smallest / max(render.resolution_x, render.resolution_y)))
        changed.set(render, "resolution_percentage", percentage)
        for name in ("use_compositing", "use_sequencer", "use_persistent_data"):
            changed.set(render, name, False)
        if engine == "CYCLES":
            changed.set(self.data.cycles, "samples", 1)
            changed.set(self.data.cycles, "use_denoising", False)
        elif "EEVEE" in engine:
            changed.set(self.data.eevee, "taa_render_samples", 1)

    def _animate(self, frame, changed):
        """Renders one frame as an animation: file names, overwriting and simulations are as for `-a`."""
        self._only_frames(frame, frame, changed)
        run_render(animation=True)

    def _only_frames(self, first, last, changed):
        scene = self.data
        # Each drags the other along if they would cross.
        changed.keep(scene, "frame_end", "frame_start")
        scene.frame_end = last
        scene.frame_start = first
        scene.frame_end = last

    def output(self, name, directory):
        """The scene's own file name, or the plugin's, in the host's folder."""
        own = os.path.basename(self.data.render.filepath.replace("\\", "/"))
        return os.path.join(directory, own if name is None else name)

    def views(self):
        """Names of the views that have files of their own; one without a name if they share them."""
        render = self.data.render
        if not render.use_multiview or render.image_settings.views_format != "INDIVIDUAL":
            return [""]
        return [view.name for view in render.views if view.use]

    def paths(self, frame, name):
        """Names of the files that a frame will be written to."""
        return self.paths_of_all([frame], name)[0]

    def paths_of_all(self, frames, name):
        with Journal() as changed:
            self.aim(name, "/", changed)
            path, views = self.data.render.frame_path, self.views()
            return [[os.path.relpath(path(frame=frame, view=v), "/") for v in views] for frame in frames]

    def aim(self, name, directory, changed):
        """Sets where pictures are written to; a scene that writes movies gives pictures to make them of."""
        render = self.data.render
        path = self.output(name, directory)
        stem, ending = os.path.splitext(path)
        if self.writes_movies and name is None and ending.lower() in CONTAINERS:
            path = f"{stem}_"
        if render.is_movie_format:
            # What the movie would be encoded from: 8 bits a value, unless it has more.
            depth = getattr(render.image_settings, "color_depth", "8")
            choose_format(render.image_settings, "PNG", changed)
            render.image_settings.color_depth = "8" if depth == "8" else "16"
        changed.set(render, "filepath", path)

    def check_device(self):
        """Fails rather than to render on the CPU what asks for a GPU."""
        scene = self.data
        if scene.render.engine == "CYCLES" and scene.cycles.device == "GPU" and not self.cpu:
            raise Failure(
                "unsupported",
                "the scene asks for a GPU and this host renders on its CPU only\n"
                "if that is what you want, say --device cpu",
            )

    def sign(self, maker, changed):
        """Names what made the picture in its metadata, beside the scene's own note.

        A scene that prints its metadata into the picture keeps it as it is: pixels come first.
        """
        render = self.data.render
        if not render.use_stamp:
            own = render.stamp_note_text if render.use_stamp_note else ""
            changed.set(render, "use_stamp_note", True)
            changed.set(render, "stamp_note_text", f"{own} ({maker})" if own else maker)

    def write(self, frame, name, directory, maker):
        render = self.data.render
        self.check_device()
        self.check_denoiser()
        self.simulate_up_to(frame, directory)
        self.keep_render_data("write")
        render = self.data.render
        with Journal() as changed:
            self.aim(name, directory, changed)
            changed.set(render, "use_overwrite", True)
            changed.set(render, "use_placeholder", False)
            for node in file_output_nodes():
                redirect(node, directory, changed)
            self.sign(maker, changed)
            self._animate(frame, changed)
        return {"unread": check_pictures(directory)}

    def shot(self, frame, region, samples, file):
        scene, render = self.data, self.data.render
        self.check_device()
        part = [json.dumps(what, sort_keys=True) for what in (region, samples)]
        self.keep_render_data("shot", *part)
        with Journal() as changed:
            changed.set(render, "use_compositing", False)
            changed.set(render, "use_sequencer", False)
            changed.set(render, "use_multiview", False)
            self._only_region(region, changed)
            if samples:
                self._only_samples(samples, changed)
            if (region or samples) and render.engine == "CYCLES":
                # Parts are denoised when they have been put together, not before.
                changed.set(scene.cycles, "use_denoising", False)
            self.check_denoiser()
            # What moves a simulation otherwise than `blender -a` does.
            self.simulated = math.inf
            scene.frame_set(frame)
            run_render()
            with Journal() as form:
                settings = render.image_settings
                choose_format(settings, "OPEN_EXR", form)
                for name, value in (("color_depth", "32"), ("color_mode", "RGBA"), ("exr_codec", "ZIP")):
                    form.set(settings, name, value)
                bpy.data.images["Render Result"].save_render(file, scene=scene)

    def _only_region(self, region, changed):
        render = self.data.render
        if not region:
            changed.set(render, "use_border", False)
            return
        width, height = self.size()
        x, y, w, h = (region[key] for key in ("x", "y", "width", "height"))
        if w < 1 or h < 1 or x + w > width or y + h > height:
            raise Failure(
                "invalid-argument", f"region {w}x{h} at {x},{y} is not within the picture of {width}x{height}"
            )
        changed.set(render, "use_border", True)
        changed.set(render, "use_crop_to_border", True)
        # Blender cuts the fraction of a pixel off: stay clear of the one below.
        for side, low, high, full in (("x", x, x + w, width), ("y", y, y + h, height)):
            changed.set(render, f"border_min_{side}", (low + 0.25) / full if low else 0.0)
            changed.set(render, f"border_max_{side}", min((high + 0.25) / full, 1.0))

    def _only_samples(self, samples, changed):
        cycles = self.data.cycles
        if self.data.render.engine != "CYCLES":
            raise Failure("unsupported", f"{self.data.render.engine} cannot render some of its samples")
        offset, count, total = (samples[key] for key in ("offset", "count", "total"))
        if count < 1 or offset + count > total or total > MAX_SAMPLES:
            raise Failure("invalid-argument", f"samples {offset}+{count} are not within {total} (at most {MAX_SAMPLES})")
        # Adaptive sampling would stop each part by its own noise.
        changed.set(cycles, "use_adaptive_sampling", False)
        changed.set(cycles, "sample_offset", offset)
        if hasattr(cycles, "use_sample_subset"):
            changed.set(cycles, "use_sample_subset", True)
            changed.set(cycles, "sample_subset_length", count)
            changed.set(cycles, "samples", total)
        else:
            changed.set(cycles, "samples", count)

    def develop(self, image, frame, name, directory):
        render = self.data.render
        picture = bpy.data.images.load(image)
        try:
            with Journal() as changed:
                self.aim(name, directory, changed)
                changed.set(render, "use_multiview", False)
                file = render.frame_path(frame=frame)
                picture.save_render(file, scene=self.data)
                check_pictures(directory)
                return os.path.relpath(file, directory)
        except RuntimeError as error:
            raise Failure("blender", first_line(error)) from None
        finally:
            bpy.data.images.remove(picture)


    # movies

    def reel(self, frames, pictures, name):
        """Names the movies that `encode` makes, one a view, each with the pictures that it is made of."""
        each = self.paths_of_all(range(*frames), pictures)
        with Journal() as changed:
            self.aim_movie(frames, name, "/", changed)
            path = self.data.render.frame_path
            movies = [os.path.relpath(path(frame=frames[0], view=view), "/") for view in self.views()]
        return [{"movie": movie, "pictures": of_view} for movie, of_view in zip(movies, zip(*each))]

    def aim_movie(self, frames, name, directory, changed):
        """Sets where a movie is written to, and makes it one if the scene writes pictures."""
        scene, render = self.data, self.data.render
        movie, settings = render.ffmpeg, render.image_settings
        ending = os.path.splitext(name or "")[1].lower()
        if name and ending not in CONTAINERS:
            raise Failure("invalid-argument", f"'{name}' is not the name of a movie\nlet it end in one of {', '.join(CONTAINERS)}")
        if settings.file_format == "FRAMESERVER":
            raise Failure("unsupported", "the scene serves its frames to another program, which is no movie")
        if not render.is_movie_format or (name and settings.file_format != "FFMPEG" and ending != ".avi"):
            choose_format(settings, "FFMPEG", changed)
        if name and settings.file_format == "FFMPEG" and movie.format != CONTAINERS[ending]:
            changed.set(movie, "format", CONTAINERS[ending])
            if ending == ".webm":
                for kind, fit in WEB_CODECS.items():
                    if getattr(movie, kind) not in fit:
                        changed.set(movie, kind, fit[0])
        if getattr(movie, "use_autosplit", False):
            changed.set(movie, "use_autosplit", False)
        if name:
            changed.set(render, "use_file_extension", False)
        self._only_frames(frames[0], frames[1] - 1, changed)
        changed.set(scene, "frame_step", frames[2])
        changed.set(render, "filepath", self.output(name, directory))

    def encode(self, frames, name, pictures, directory):
        """Makes movies of pictures: Blender's sequencer shows one a frame, over whatever else the scene has.

        `pictures` is a folder with a folder for each view, and in it the pictures in their order. The scene
        is worth nothing afterwards; the host ends this worker.
        """
        scene, render = self.data, self.data.render
        self.encoding = range(*frames)
        self.aim_movie(frames, name, directory, Journal())
        paths = [render.frame_path(frame=frames[0], view=view) for view in self.views()]
        render.use_file_extension, render.use_multiview = False, False
        for switch in ("use_compositing", "use_stamp", "use_border", "use_persistent_data"):
            setattr(render, switch, False)
        render.use_sequencer, render.use_overwrite = True, True
        # Where nothing makes a sound, nothing needs to be there but the pictures.
        if not any(thing.type == "SPEAKER" for thing in scene.objects):
            for collection in scene.collection.children[:]:
                scene.collection.children.unlink(collection)
            for thing in scene.collection.objects[:]:
                scene.collection.objects.unlink(thing)
        # Nobody looks at a picture twice.
        bpy.context.preferences.system.memory_cache_limit = 64
        for number, path in enumerate(paths):
            reel = os.path.join(pictures, str(number))
            strips = self.show(reel, sorted(os.listdir(reel)), frames)
            render.filepath = path
            run_render(animation=True)
            check_movie(path, len(self.encoding))
            for strip in strips:
                self.strips().remove(strip)

    def strips(self):
        editor = self.data.sequence_editor or self.data.sequence_editor_create()
        return editor.strips if hasattr(editor, "strips") else editor.sequences

    def show(self, folder, names, frames):
        """Lays pictures on top of the sequencer, without any change of their colours."""
        scene, render = self.data, self.data.render
        first = imbuf.load(os.path.join(folder, names[0]))
        render.resolution_x, render.resolution_y = first.size
        render.resolution_percentage = 100
        first.free()
        is_displayed = is_displayed_format(names[0])
        if is_displayed:
            plain(scene)
        self.strips()
        if hasattr(scene.sequence_editor, "display_stack"):
            scene.sequence_editor.display_stack(None)
        channel = max((strip.channel for strip in self.strips()), default=0) + 1
        shown, step = [], frames[2]
        # Each name that is added copies all before it.
        for start in range(0, len(names), 1000):
            part = [name for name in names[start : start + 1000] for _ in range(step)]
            strip = self.strips().new_image(
                name="pictures",
                filepath=os.path.join(folder, part[0]),
                channel=channel,
                frame_start=frames[0] + start * step,
                fit_method="ORIGINAL",
            )
            for name in part[1:]:
                strip.elements.append(name)
            strip.blend_type = "REPLACE"
            if is_displayed:
                strip.colorspace_settings.name = "Non-Color"
            shown.append(strip)
        return shown


def is_displayed_format(name):
    """Whether the view transform is in a picture already, by its name."""
    ending = os.path.splitext(name)[1].lower()
    if ending not in DISPLAYED | LINEAR:
        raise Failure("unsupported", f"Blender makes no movie of {ending or 'such'} pictures\nrender them as PNG")
    return ending in DISPLAYED


def plain(scene):
    """Shows colours as they are in the pictures."""
    view, settings = scene.view_settings, scene.render.image_settings
    if hasattr(settings, "color_management"):
        settings.color_management = "FOLLOW_SCENE"
    view.view_transform = "Raw"
    for none in ("NONE", "None"):
        try:
            view.look = none
        except TypeError:
            continue
    view.exposure, view.gamma, view.use_curve_mapping = 0, 1, False
    if hasattr(view, "use_white_balance"):
        view.use_white_balance = False
    scene.sequencer_colorspace_settings.name = "Non-Color"
    scene.render.dither_intensity = 0


def check_movie(path, count):
    """Reads a movie again: one that is cut off has fewer frames."""
    try:
        clip = bpy.data.movieclips.load(path)
    except RuntimeError:
        raise Failure("blender", f"the movie {os.path.basename(path)} cannot be read again") from None
    found = clip.frame_duration
    bpy.data.movieclips.remove(clip)
    if found < count:
        raise Failure("blender", f"the movie {os.path.basename(path)} has {found} frames instead of {count}")


def check_pictures(directory):
    """Decodes every file that was rendered: one that cannot be read is no picture.

    Names those that this Blender cannot read though it wrote them: several layers
    in one OpenEXR file. The host reads them.
    """
    unread = []
    for folder, _, names in os.walk(directory):
        for name in names:
            file = os.path.join(folder, name)
            try:
                picture = imbuf.load(file)
            except (OSError, ValueError):
                if not name.endswith(".exr"):
                    raise Failure("blender", f"the rendered file {name} cannot be read again") from None
                unread.append(os.path.relpath(file, directory))
                continue
            if 0 in picture.size:
                raise Failure("blender", f"the rendered file {name} holds no picture")
            picture.free()
    return unread


def choose_format(settings, value, journal):
    """Sets the file format and what newer Blenders want with it."""
    # Blender adapts these to the format, and does not adapt them back.
    journal.keep(settings, "exr_codec", "color_depth", "color_mode")
    movie = settings.id_data.render.ffmpeg
    journal.keep(movie, *(p.identifier for p in movie.bl_rna.properties if not p.is_readonly))
    if hasattr(settings, "media_type"):
        journal.keep(settings, "file_format")
        media = "MULTI_LAYER_IMAGE" if value == "OPEN_EXR_MULTILAYER" else "IMAGE"
        journal.set(settings, "media_type", "VIDEO" if value in MOVIE_FORMATS else media)
    journal.set(settings, "file_format", value)


def run_render(**how):
    try:
        result = bpy.ops.render.render(**how)
    except RuntimeError as error:
        raise Failure("blender", first_line(error)) from None
    if "FINISHED" not in result:
        raise Failure("blender", "Blender canceled the render")


def first_line(error):
    """The first sentence of Blender's report, without its own 'Error:'."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or ["no reason given"]
    text = next((line for line in lines if line.startswith("Error:")), lines[0])
    for noise in ("Error:", "bpy_struct: item.attr = val:"):
        text = text.removeprefix(noise).strip()
    return text.rstrip(".")


def listing(names):
    names = list(names)
    return ", ".join(f"'{n}'" for n in names) if names else "none"


# --- compositor --------------------------------------------------------------


def compositor(scene):
    """The compositor's node tree, wherever this Blender keeps it."""
    if hasattr(scene, "compositing_node_group"):
        return scene.compositing_node_group
    return scene.node_tree if scene.use_nodes else None


def file_output_nodes():
    """Every File Output node in the file: strips and groups render others' trees."""
    trees = [tree for tree in map(compositor, bpy.data.scenes) if tree]
    trees += [tree for tree in bpy.data.node_groups if tree.bl_idname == "CompositorNodeTree"]
    for tree in {tree.as_pointer(): tree for tree in trees}.values():
        yield from (node for node in tree.nodes if node.bl_idname == "CompositorNodeOutputFile")


def inside(path):
    """A path made relative and harmless: what of it can stay below a folder.

    `//passes/depth_` keeps both parts, `/mnt/x/passes/` its last, `..` is dropped.
    """
    path = path.replace("\\", "/")
    relative = path.startswith("//") or not (path.startswith("/") or path[1:3] == ":/")
    trail = "/" if path.endswith("/") else ""
    parts = [p for p in path.split("/") if p not in {"", ".", ".."} and not p.endswith(":")]
    if not relative:
        parts = parts[-1:]
    return "/".join(parts) + (trail if parts else "")


def redirect(node, directory, changed):
    """Keeps what a File Output node writes below the host's folder."""
    folder = "base_path" if hasattr(node, "base_path") else "directory"
    changed.set(node, folder, os.path.join(directory, inside(getattr(node, folder))))
    if hasattr(node, "file_name"):
        changed.set(node, "file_name", inside(node.file_name))
    parts = [(slot, "path") for slot in getattr(node, "file_slots", [])]
    parts += [(item, "name") for item in getattr(node, "file_output_items", [])]
    for part, name in parts:
        if inside(getattr(part, name)) != getattr(part, name):
            changed.set(part, name, inside(getattr(part, name)))


# --- scenes of a file --------------------------------------------------------


def choose_scene(name):
    """Makes a scene of the file the one that is rendered."""
    if bpy.context.scene.name == name:
        return
    wanted = bpy.data.scenes.get(name)
    if wanted is None:
        raise Failure("not-found", f"the file has no scene '{name}'\nit has {listing(s.name for s in bpy.data.scenes)}")
    bpy.context.window.scene = wanted


def enable_addons(folder, names):
    """Enables add-ons of the operator's, before a file is opened: a scene's engine or nodes may be theirs."""
    if not names:
        return
    # A module of Blender's own, which can be found once `bpy` is there.
    import addon_utils

    sys.path.insert(0, folder)
    for name in names:
        failed = []
        try:
            module = addon_utils.enable(name, default_set=True, persistent=True, handle_error=failed.append)
        except Exception as error:  # What an add-on may raise is its own affair.
            module, failed = None, [error]
        if module is None:
            why = f": {type(failed[0]).__name__}: {failed[0]}" if failed else ""
            what = f"the add-on '{name}' of blender.addons cannot be enabled{why}"
            raise Failure("blender", f"{what}\nit is looked for in {folder}")


# --- what may be kept between frames ------------------------------------------

# Render data that Blender keeps (`use_persistent_data`) has been wrong in later frames: particles, cloth,
# dynamic paint, keyed render settings. So it is kept only for scenes that are made of nothing but what
# tests/fixtures/matrix.py proves to be right, in the Blenders that it is proven with.
PROVEN_BLENDERS = {(3, 4), (4, 5), (5, 2)}
PROVEN_OBJECTS = {"MESH", "CURVE", "SURFACE", "FONT", "META", "ARMATURE", "LATTICE", "EMPTY", "CAMERA", "LIGHT"}
PROVEN_MODIFIERS = {
    "ARMATURE",
    "ARRAY",
    "BEVEL",
    "BUILD",
    "DECIMATE",
    "DISPLACE",
    "LATTICE",
    "MIRROR",
    "NODES",
    "OCEAN",
    "SIMPLE_DEFORM",
    "SOLIDIFY",
    "SUBSURF",
    "TRIANGULATE",
    "WAVE",
    "WIREFRAME",
}


def may_keep_render_data(scene):
    """Whether it is proven that frames come out right if this scene's render data is kept."""
    render = scene.render
    if bpy.app.version[:2] not in PROVEN_BLENDERS or render.engine != "CYCLES":
        return False
    if has_animation(scene) or scene.rigidbody_world or render.use_simplify or render.use_multiview:
        return False
    # 5.x has no set of experimental features any more.
    is_experimental = getattr(scene.cycles, "feature_set", "SUPPORTED") != "SUPPORTED"
    if render.use_freestyle or scene.cycles.shading_system or is_experimental:
        return False
    layers = [layer for layer in scene.view_layers if layer.use]
    if len(layers) != 1 or layers[0].material_override or getattr(layers[0], "world_override", None):
        return False
    if any(image.source == "MOVIE" for image in bpy.data.images):
        return False
    # Objects of other scenes may be instanced here.
    return all(is_proven(thing) for thing in bpy.data.objects)


def is_proven(thing):
    return (
        thing.type in PROVEN_OBJECTS
        and {modifier.type for modifier in thing.modifiers} <= PROVEN_MODIFIERS
        and not any(simulation_nodes(modifier) for modifier in thing.modifiers)
        # Its fineness follows the camera from frame to frame.
        and not any(getattr(modifier, "use_adaptive_subdivision", False) for modifier in thing.modifiers)
        and thing.instance_type in {"NONE", "COLLECTION"}
        and not thing.particle_systems
        and not thing.rigid_body
    )


def has_animation(block):
    animation = block.animation_data
    return bool(animation and (animation.action or animation.drivers or animation.nla_tracks))


# --- simulations --------------------------------------------------------------


def unbaked_simulations(scene):
    """Names what depends on the frames before it, and is not baked."""
    found = []
    for thing in scene.objects:
        for modifier in thing.modifiers:
            what = unbaked(modifier)
            if what:
                found.append(f"{what} of '{thing.name}'")
    world = scene.rigidbody_world
    if world and world.enabled and world.collection and len(world.collection.objects) and not is_baked(world.point_cache):
        found.append("rigid bodies")
    return sorted(found)


def unbaked(modifier):
    """Says what a modifier simulates, unless it reads a cache."""
    if not modifier.show_render:
        return None
    if modifier.type in {"CLOTH", "SOFT_BODY"}:
        word = "cloth" if modifier.type == "CLOTH" else "soft body"
        return None if is_baked(modifier.point_cache) else word
    if modifier.type == "PARTICLE_SYSTEM":
        system = modifier.particle_system
        moves = system.settings.type == "EMITTER" or system.use_hair_dynamics
        return "particles" if moves and not is_baked(system.point_cache) else None
    if modifier.type == "DYNAMIC_PAINT":
        surfaces = modifier.canvas_settings.canvas_surfaces if modifier.canvas_settings else ()
        return "dynamic paint" if any(s.is_active and not is_baked(s.point_cache) for s in surfaces) else None
    if modifier.type == "FLUID" and modifier.fluid_type == "DOMAIN":
        domain = modifier.domain_settings
        baked = domain.cache_type != "REPLAY" and (domain.has_cache_baked_data or domain.has_cache_baked_any)
        return None if baked else "fluid"
    return "simulation nodes" if simulation_nodes(modifier) and not nodes_are_baked(modifier) else None


def is_baked(cache):
    return cache.is_baked or cache.use_external


def simulation_nodes(modifier):
    """Whether a modifier's geometry nodes hold a simulation, or bake something."""
    if modifier.type != "NODES" or not modifier.node_group:
        return False
    return any(
        node.bl_idname in {"GeometryNodeSimulationOutput", "GeometryNodeBake"}
        for tree in trees_below(modifier.node_group, {})
        for node in tree.nodes
    )


def trees_below(tree, seen):
    """All node trees that a tree uses, and itself."""
    if tree.as_pointer() not in seen:
        seen[tree.as_pointer()] = tree
        for node in tree.nodes:
            if getattr(node, "node_tree", None):
                trees_below(node.node_tree, seen)
    return seen.values()


def nodes_are_baked(modifier):
    bakes = list(getattr(modifier, "bakes", ()))
    folders = [bake_folder(modifier, bake) for bake in bakes]
    return bool(bakes) and all(folder and os.path.isdir(os.path.join(folder, "meta")) for folder in folders)


def bake_folder(modifier, bake):
    """Where a bake of geometry nodes lies on disk, if it does."""
    own = getattr(bake, "use_custom_path", False) and bake.directory
    if own:
        return bpy.path.abspath(bake.directory)
    if not getattr(modifier, "bake_directory", ""):
        return None
    return os.path.join(bpy.path.abspath(modifier.bake_directory), str(bake.bake_id))


# --- what a scene needs, lacks and carries --------------------------------------


def references():
    """Every file that the scene names, for the host to look for: a worker sees only some folders.

    `kind` says what stands for several files: `tiles` (a name with <UDIM> or <UVTILE>), `sequence` (one
    file of a numbered sequence) and `folder` (all that is below it).
    """
    found = {}
    sequences = {os.path.normpath(path) for path in sequence_paths()}
    for path in bpy.utils.blend_paths(absolute=True, packed=False, local=False):
        name = os.path.basename(path)
        if not name or is_blenders_own(path):
            continue
        kind = "file"
        if "<UDIM>" in name or "<UVTILE>" in name:
            kind = "tiles"
        elif os.path.normpath(path) in sequences:
            kind = "sequence"
        found[os.path.normpath(path)] = kind
    for folder in cache_folders():
        found.setdefault(os.path.normpath(folder), "folder")
    found.pop(os.path.normpath(bpy.data.filepath), None)
    return [{"path": path, "kind": kind} for path, kind in sorted(found.items())]


def sequence_paths():
    for block in (*bpy.data.images, *bpy.data.movieclips):
        if block.source == "SEQUENCE":
            yield bpy.path.abspath(block.filepath, library=block.library)
    for volume in bpy.data.volumes:
        if volume.is_sequence:
            yield bpy.path.abspath(volume.filepath, library=volume.library)
    for cache in bpy.data.cache_files:
        if cache.is_sequence:
            yield bpy.path.abspath(cache.filepath, library=cache.library)


def cache_folders():
    """Where caches of simulations lie on disk, as far as there are any."""
    folders = set()
    for thing in bpy.data.objects:
        for modifier in thing.modifiers:
            if modifier.type == "FLUID" and modifier.fluid_type == "DOMAIN":
                folders.add(bpy.path.abspath(modifier.domain_settings.cache_directory))
            folders.update(bake_folder(modifier, bake) for bake in getattr(modifier, "bakes", ()))
            system = getattr(modifier, "particle_system", None)
            for cache in (getattr(modifier, "point_cache", None), getattr(system, "point_cache", None)):
                folders.update(point_cache_folders(cache))
            canvas = getattr(modifier, "canvas_settings", None)
            for surface in canvas.canvas_surfaces if canvas else ():
                folders.update(point_cache_folders(surface.point_cache))
    for scene in bpy.data.scenes:
        if scene.rigidbody_world:
            folders.update(point_cache_folders(scene.rigidbody_world.point_cache))
    return {folder for folder in folders if folder and os.path.isdir(folder)}


def point_cache_folders(cache):
    """Blender keeps disk caches in a folder beside the file, external ones where it is told."""
    if cache is None:
        return
    if cache.use_external and cache.filepath:
        yield bpy.path.abspath(cache.filepath)
    elif cache.use_disk_cache and bpy.data.filepath:
        folder, name = os.path.split(bpy.data.filepath)
        yield os.path.join(folder, f"blendcache_{os.path.splitext(name)[0]}")


def is_blenders_own(path):
    """Whether a file came with the Blender that saved the scene, and is only for work on it: brushes."""
    parts = path.replace("\\", "/").split("/")
    if "datafiles" not in parts or "assets" not in parts:
        return False
    libraries = [lib for lib in bpy.data.libraries if bpy.path.abspath(lib.filepath) == path]
    kinds = {block.id_type for lib in libraries for block in lib.users_id}
    return kinds <= {"BRUSH", "IMAGE", "TEXTURE", "PALETTE", "CURVE"}


def unreadable(paths):
    """Those of some files that are there and that this worker may not read."""
    return [path for path in paths if not readable(path)]


def readable(file):
    if os.path.isdir(file):
        return True
    try:
        # A sandbox lets one ask whether a file is there, and not open it.
        with open(file, "rb"):
            return True
    except OSError:
        return False


def old_file():
    """Says that the file is from before 2.80, which replaced Blender's own renderer and its materials."""
    major, minor, _ = bpy.data.version
    if (major, minor) >= (2, 80):
        return []
    what = f"the scene was saved by Blender {major}.{minor}, before 2.80: this Blender converts it"
    return [f"{what}, and no longer has the renderer 'Blender Render'"]


def unknown_nodes():
    """Says that the scene has nodes which this Blender does not know."""
    trees = [*bpy.data.node_groups]
    for blocks in (bpy.data.materials, bpy.data.worlds, bpy.data.lights, bpy.data.scenes):
        trees += [block.node_tree for block in blocks if getattr(block, "node_tree", None)]
    names = {node.name for tree in trees for node in tree.nodes if node.bl_idname == "NodeUndefined"}
    if not names:
        return []
    return [f"this Blender does not know the nodes {listing(sorted(names))}: an add-on is missing, or it is too old"]


def blocked_scripts():
    """Everything in the file that Blender would have run, had it been trusted."""
    found = [f"text block '{text.name}'" for text in bpy.data.texts if text.use_module]
    for name, animation in animations():
        for curve in animation.drivers:
            driver = curve.driver
            if driver.type == "SCRIPTED" and not driver.is_simple_expression:
                found.append(f"driver of {curve.data_path} on '{name}': {driver.expression[:80]}")
    return found


def animations():
    """All animation data, each with the name of what it is part of."""
    for prop in bpy.data.bl_rna.properties:
        if prop.type != "COLLECTION":
            continue
        for block in getattr(bpy.data, prop.identifier):
            # The node tree of a material, say, is in no list of its own.
            for owner in (block, getattr(block, "node_tree", None)):
                if getattr(owner, "animation_data", None):
                    yield block.name, owner.animation_data


def stop_style_modules():
    """Takes out the scripts of Freestyle, which Blender would run though it trusts no file."""
    stopped = []
    for layer in (layer for scene in bpy.data.scenes for layer in scene.view_layers):
        freestyle = getattr(layer, "freestyle_settings", None)
        for module in freestyle.modules if freestyle else ():
            if module.script:
                stopped.append(f"style module '{module.script.name}' of view layer '{layer.name}'")
                # Its use can be animated, this cannot.
                module.script = None
    return stopped


def has_denoiser():
    """Whether this Blender was built with a denoiser (Debian's is not)."""
    try:
        import _cycles
    except ImportError:
        return False
    return bool(_cycles.with_openimagedenoise)


def devices():
    try:
        preferences = bpy.context.preferences.addons["cycles"].preferences
        preferences.refresh_devices()
    except (KeyError, AttributeError):
        return []
    return [{"id": d.id, "name": d.name, "kind": d.type.lower()} for d in preferences.devices]


# --- requests ----------------------------------------------------------------


class Worker:
    """Answers requests one after another, on Blender's main thread."""

    def __init__(self, peer):
        self.peer = peer
        self.progress = Progress(peer)
        self.scene = None
        self.has_addons = False
        self.methods = {
            "scene.open": self.open,
            "scene.inspect": lambda: self.loaded().inspect(),
            "scene.set": lambda path, value: self.loaded().set(path, value),
            "scene.paths": lambda frame, name: self.loaded().paths(frame, name),
            "scene.write": lambda **how: self.loaded().write(**how),
            "scene.shot": lambda **how: self.loaded().shot(**how),
            "scene.develop": lambda **how: self.loaded().develop(**how),
            "scene.reel": lambda **how: self.loaded().reel(**how),
            "scene.encode": lambda **how: self.loaded().encode(**how),
            "files.unreadable": unreadable,
            "devices.list": devices,
        }

    def loaded(self):
        if self.scene is None:
            raise Failure("not-found", "no scene is open")
        return self.scene

    def open(self, path, anew, threads, cpu, scene, trust, addons):
        """Opens a scene as it is on disk; warm if it is the one loaded already."""
        if not self.has_addons:
            enable_addons(addons["folder"], addons["names"])
            self.has_addons = True
        stamp = Scene.stamp_of(path)
        loaded = self.scene and (self.scene.path, self.scene.stamp, self.scene.trust)
        warm = not anew and loaded == (path, stamp, trust)
        if warm:
            warm = self.scene.restored()
        if not warm:
            self.scene = None
            self.scene = Scene(path, stamp, trust)
        self.scene.prepare(scene, threads, cpu)
        return {"warm": warm, "overwrite": self.scene.data.render.use_overwrite}

    def answer(self, line):
        try:
            request = json.loads(line)
            method, params = request["method"], request.get("params", {})
        except (ValueError, KeyError, TypeError):
            self.peer.send({"id": None, "error": {"code": -32700, "message": "parse error"}})
            return
        number = request.get("id")
        self.progress.begin(number)
        try:
            reply = {"result": self.call(method, params)}
        except Failure as failure:
            data = {"code": failure.code, "message": str(failure)}
            reply = {"error": {"code": -32000, "message": str(failure), "data": data}}
        except Exception as error:  # The host must hear of it, whatever it is.
            traceback.print_exc()
            # Nobody knows what it left behind; the next one loads the scene anew.
            self.scene = None
            reply = {"error": {"code": -32603, "message": f"{type(error).__name__}: {error}"}}
        self.progress.end()
        if number is not None:
            self.peer.send({"id": number, **reply})

    def call(self, method, params):
        if method == "quit":
            leave()
        if method not in self.methods:
            raise Failure("unsupported", f"no method {method}")
        return self.methods[method](**params)


def leave():
    # Blender 4.5 as a module can hang in its own exit, so it is not asked to.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def read(peer, inbox):
    for line in peer.requests():
        inbox.put(line)
    # The host is gone, or wants us gone: no frame is worth finishing.
    leave()


def main():
    peer = Peer(socket.socket(fileno=int(os.environ["HOTSHOE_FD"])))
    worker = Worker(peer)
    inbox = queue.Queue()

    @bpy.app.handlers.persistent
    def on_stats(*arguments):
        worker.progress.status(next((a for a in arguments if isinstance(a, str)), None))

    @bpy.app.handlers.persistent
    def on_write(scene, *_):
        frames = worker.scene and worker.scene.encoding
        if frames and scene.frame_current in frames:
            worker.progress.steps(frames.index(scene.frame_current) + 1, len(frames))

    bpy.app.handlers.render_stats.append(on_stats)
    bpy.app.handlers.render_write.append(on_write)
    # Once it has drawn something, Blender subdivides on the GPU, and Workbench is off by one from the
    # second frame on. An animation that plain Blender renders is subdivided on the CPU throughout.
    bpy.context.preferences.system.use_gpu_subdivision = False
    threading.Thread(target=read, args=(peer, inbox), daemon=True).start()
    peer.notify(
        "hello",
        role="worker",
        protocol=PROTOCOL,
        blender=list(bpy.app.version),
        blender_version=bpy.app.version_string,
        python=sys.version.split()[0],
        pid=os.getpid(),
    )
    while True:
        worker.answer(inbox.get())


main()
