"""Renders frames small and lays them out on one sheet, each above its number.

The pictures never come here: the host keeps them, cuts and places them, and Blender
writes the sheet with the scene's own view transform. Only the labels are drawn in this
process, a few thousand pixels each. So it needs nothing but the standard library.
"""

import math
from array import array

import hotshoe
from hotshoe import blender, host
from hotshoe.image import Image
from hotshoe.types import Region, Shot

MAX_FRAMES = 400
"""How many frames fit on a sheet that one can still look at."""

CHUNK = 1 << 20
"""How many pixels of background are written at a time."""

BACKGROUND = (0.02, 0.02, 0.02, 1.0)
INK = (0.8, 0.8, 0.8, 1.0)

GLYPHS = {
    "0": "01110 10001 10011 10101 11001 10001 01110",
    "1": "00100 01100 00100 00100 00100 00100 01110",
    "2": "01110 10001 00001 00110 01000 10000 11111",
    "3": "01110 10001 00001 00110 00001 10001 01110",
    "4": "00010 00110 01010 10010 11111 00010 00010",
    "5": "11111 10000 11110 00001 00001 10001 01110",
    "6": "00110 01000 10000 11110 10001 10001 01110",
    "7": "11111 00001 00010 00100 01000 01000 01000",
    "8": "01110 10001 10001 01110 10001 10001 01110",
    "9": "01110 10001 10001 01111 00001 00010 01100",
}
"""Digits, five pixels wide and seven high, rows from the top."""

WIDTH, HEIGHT = 5, 7


class ContactSheet(hotshoe.Renderer):
    name = "contact-sheet"
    version = "0.1.0"
    summary = "frames, small, on one labelled sheet"
    settings_schema = {
        "type": "object",
        "additionalProperties": False,
        "properties": {
            "width": {
                "description": "Width of each picture in pixels.",
                "type": "integer",
                "minimum": 32,
                "maximum": 1024,
                "default": 240,
            },
            "columns": {
                "description": "Pictures in a row; about as many as rows if absent.",
                "type": "integer",
                "minimum": 1,
                "maximum": 64,
            },
            "samples": {
                "description": "Samples a pixel (Cycles only); the scene's own if absent.",
                "type": "integer",
                "minimum": 1,
                "maximum": 4096,
            },
        },
    }

    def plan(self, job, cursor):
        frames = list(hotshoe.frames(job))
        if len(frames) > MAX_FRAMES:
            raise hotshoe.InvalidArgumentError(
                f"a sheet takes at most {MAX_FRAMES} frames, not {len(frames)}\n"
                "leave some out: 1-1000x25 is every 25th"
            )
        pictures = [hotshoe.PlannedTask(f"frame-{frame}", frame=frame) for frame in frames]
        sheet = hotshoe.PlannedTask("sheet", after=[task.name for task in pictures])
        return hotshoe.Page([*pictures, sheet])

    def render(self, task):
        with blender.open(task.job.scene) as scene:
            if task.frame is None:
                make_sheet(scene, task.job)
            else:
                make_picture(scene, task)


def make_picture(scene, task):
    """Renders one frame small and keeps it."""
    settings, info = task.job.settings, scene.inspect()
    width = settings.get("width", 240)
    scene.set("render.resolution_percentage", 100)
    scene.set("render.resolution_x", width)
    scene.set("render.resolution_y", max(4, round(width * info.height / info.width)))
    if "samples" in settings and info.engine == "CYCLES":
        scene.set("cycles.samples", settings["samples"])
    with scene.start(Shot(task.frame)) as render, render.result() as picture:
        picture.save(task.name)


def make_sheet(scene, job):
    """Puts the pictures together."""
    frames = list(hotshoe.frames(job))
    columns = job.settings.get("columns") or math.ceil(math.sqrt(len(frames)))
    rows = math.ceil(len(frames) / columns)
    with Image.load(f"frame-{frames[0]}") as first:
        width, height = first.size()
    scale = max(1, width // 120)
    gap = 4 * scale
    cell = (width + gap, height + gap + (HEIGHT + 4) * scale)
    size = (columns * cell[0] + gap, rows * cell[1] + gap)
    with Image.create(*size) as sheet:
        fill(sheet, size)
        for index, frame in enumerate(frames):
            x = gap + index % columns * cell[0]
            # The first row is the highest one, and heights count from below.
            y = size[1] - (index // columns + 1) * cell[1]
            with Image.load(f"frame-{frame}") as picture:
                sheet.place(picture, x, y + cell[1] - gap - height)
            write(sheet, str(frame), x, y, scale, width)
            host.progress((index + 1) / len(frames), f"{index + 1} of {len(frames)} pictures")
        scene.set("render.image_settings.file_format", "PNG")
        scene.develop(sheet, frames[0], "contact-sheet-####")


def fill(sheet, size):
    """Paints the background."""
    rows = max(1, CHUNK // size[0])
    for y in range(0, size[1], rows):
        part = Region(0, y, size[0], min(rows, size[1] - y))
        sheet.write(part, array("f", BACKGROUND) * (part.width * part.height))


def write(sheet, text, x, y, scale, most):
    """Writes a number with its lower left corner at `x`, `y`."""
    width = (len(text) * (WIDTH + 1) - 1) * scale
    if width > most:
        return
    pixels = array("f")
    for row in reversed(range(HEIGHT)):
        line = array("f")
        for index, digit in enumerate(text):
            if index > 0:
                line.extend(BACKGROUND * scale)
            for dot in GLYPHS[digit].split()[row]:
                line.extend((INK if dot == "1" else BACKGROUND) * scale)
        pixels.extend(line * scale)
    sheet.write(Region(x, y + scale, width, HEIGHT * scale), pixels)


if __name__ == "__main__":
    hotshoe.serve(ContactSheet())
