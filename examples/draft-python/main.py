"""Small pictures, fast: the smallest process that is of use."""

import hotshoe
from hotshoe import blender


class Draft(hotshoe.Renderer):
    name = "draft"
    version = "1.0.0"
    summary = "small pictures, fast"
    settings_schema = {
        "type": "object",
        "additionalProperties": False,
        "properties": {
            "percentage": {
                "description": "Size of the picture in percent.",
                "type": "integer",
                "minimum": 1,
                "maximum": 100,
                "default": 50,
            },
        },
    }

    def render(self, task: hotshoe.Task) -> None:
        with blender.open(task.job.scene) as scene:
            scene.set("render.resolution_percentage", task.job.settings.get("percentage", 50))
            scene.set("cycles.samples", 4)
            scene.write(hotshoe.frame_of(task))


hotshoe.serve(Draft())
