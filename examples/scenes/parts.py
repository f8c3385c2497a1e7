# SPDX-License-Identifier: MIT OR Apache-2.0
"""The parts from which make.py builds its scenes."""
import math
from pathlib import Path

import bpy
from mathutils import Vector

HERE = Path(__file__).resolve().parent
FRAMES = 24


# Scene set-up


def new_scene(name, size, samples):
    """Starts an empty file and returns its scene with the render settings made."""
    bpy.ops.wm.read_factory_settings(use_empty=True)
    bpy.context.preferences.filepaths.save_version = 0
    scene = bpy.context.scene
    scene.name = name
    scene.frame_start, scene.frame_end = 1, FRAMES
    render, cycles = scene.render, scene.cycles
    render.engine = "CYCLES"
    render.resolution_x, render.resolution_y = size
    render.fps = 24
    render.filepath = f"//{name}_####"
    render.image_settings.file_format = "PNG"
    render.image_settings.color_mode = "RGB"
    cycles.device = "CPU"
    cycles.samples = samples
    cycles.use_denoising = cycles.use_preview_denoising = False
    cycles.use_adaptive_sampling = False
    # Few bounces, clamped: with so few samples a firefly costs more than the light it carries.
    cycles.max_bounces, cycles.transmission_bounces = 4, 4
    cycles.diffuse_bounces, cycles.glossy_bounces = 1, 2
    cycles.caustics_reflective = cycles.caustics_refractive = False
    cycles.sample_clamp_indirect = 2.0
    cycles.blur_glossy = 0.5
    scene.view_layers[0].cycles.use_denoising = False
    scene.view_settings.view_transform = "Filmic"
    return scene


def save(name):
    """Writes the open file under this folder."""
    bpy.ops.wm.save_as_mainfile(filepath=str(HERE / name), compress=True)


def material(name, color, rough=0.5, metal=0.0, glass=0.0, glow=0.0):
    """Makes a Principled material."""
    mat = bpy.data.materials.new(name)
    mat.use_nodes = True
    inputs = mat.node_tree.nodes["Principled BSDF"].inputs
    inputs["Base Color"].default_value = (*color, 1)
    inputs["Roughness"].default_value = rough
    inputs["Metallic"].default_value = metal
    inputs["Transmission"].default_value = glass
    if rough == 1.0:
        inputs["Specular"].default_value = 0.0
    if glow:
        # The lamps light the scene; sampling small glowing meshes as well would only add noise.
        mat.cycles.sample_as_light = False
        inputs["Emission"].default_value = (*color, 1)
        inputs["Emission Strength"].default_value = glow
    return mat


def ramp(tree, source, colors):
    """Adds a colour ramp behind a value of a node tree and returns its colour."""
    node = tree.nodes.new("ShaderNodeValToRGB")
    stops = node.color_ramp.elements
    for _ in colors[2:]:
        stops.new(0.5)
    for i, color in enumerate(colors):
        stops[i].position = i / (len(colors) - 1)
        stops[i].color = (*color, 1)
    tree.links.new(source, node.inputs["Fac"])
    return node.outputs["Color"]


def height(tree):
    """Returns the height over the ground, from 0 to 1 of the object or the sky's sphere."""
    coord = tree.nodes.new("ShaderNodeTexCoord")
    split = tree.nodes.new("ShaderNodeSeparateXYZ")
    tree.links.new(coord.outputs["Generated"], split.inputs[0])
    return split.outputs["Z"]


def facing(tree):
    """Returns how far a surface turns away from the camera."""
    weight = tree.nodes.new("ShaderNodeLayerWeight")
    weight.inputs["Blend"].default_value = 0.5
    return weight.outputs["Facing"]


def chance(tree):
    """Returns a number from 0 to 1 that is another one for each instance of an object."""
    return tree.nodes.new("ShaderNodeObjectInfo").outputs["Random"]


def tint(mat, measure, colors, socket="Base Color"):
    """Colours a material along a measure such as `height`, `facing` or `chance`."""
    tree = mat.node_tree
    color = ramp(tree, measure(tree), colors)
    tree.links.new(color, tree.nodes["Principled BSDF"].inputs[socket])
    return mat


def world(colors, strength=1.0):
    """Lights the scene with a sky that blends from the horizon's colour to the zenith's."""
    sky = bpy.context.scene.world = bpy.data.worlds.new("sky")
    sky.use_nodes = True
    sky.cycles.sampling_method = "NONE"
    back = sky.node_tree.nodes["Background"].inputs
    sky.node_tree.links.new(ramp(sky.node_tree, height(sky.node_tree), colors), back["Color"])
    back["Strength"].default_value = strength


# Objects; angles are in degrees


def add(name, data=None, at=(0, 0, 0), turn=(0, 0, 0), parent=None, to=None):
    """Adds an object (an empty one without data) to a collection, or to the scene's own."""
    obj = bpy.data.objects.new(name, data)
    obj.location = at
    obj.rotation_euler = [math.radians(a) for a in turn]
    obj.parent = parent
    (to or bpy.context.scene.collection).objects.link(obj)
    return obj


def aim(obj, target):
    """Points a camera or a lamp at a place."""
    obj.rotation_euler = (Vector(target) - obj.location).to_track_quat("-Z", "Y").to_euler()


def area(name, at, target, size, watts, color=(1, 1, 1)):
    """Adds a soft square lamp."""
    data = bpy.data.lights.new(name, "AREA")
    data.size, data.energy, data.color = size, watts, color
    aim(add(name, data, at), target)


def lamp(kind, at, target, power, color, soft):
    """Adds a round point lamp or a sun."""
    data = bpy.data.lights.new(kind.lower(), kind)
    data.energy, data.color = power, color
    if kind == "SUN":
        data.angle = soft
    else:
        data.shadow_soft_size = soft
    aim(add(kind.lower(), data, at), target)


def camera(at, target, lens, parent=None):
    """Adds the scene's camera."""
    obj = add("camera", bpy.data.cameras.new("camera"), at, parent=parent)
    obj.data.lens = lens
    aim(obj, target)
    bpy.context.scene.camera = obj
    return obj


def animate(obj, path, index, values, steady=False):
    """Spreads key frames over the shot, eased unless a steady pace is asked for."""
    for i, value in enumerate(values):
        getattr(obj, path)[index] = value
        obj.keyframe_insert(path, index=index, frame=1 + i * (FRAMES - 1) / (len(values) - 1))
    curve = obj.animation_data.action.fcurves.find(path, index=index)
    for key in curve.keyframe_points:
        key.interpolation = "LINEAR" if steady else "BEZIER"


def mesh(name, verts, faces, mat, smooth=True):
    """Makes a mesh with one material."""
    data = bpy.data.meshes.new(name)
    data.from_pydata(verts, [], faces)
    data.polygons.foreach_set("use_smooth", [smooth] * len(data.polygons))
    data.materials.append(mat)
    return data


def loft(name, rings, mat, smooth=True, closed=False):
    """Makes the skin through rings of equally many points, capped at the ends unless closed."""
    n, count = len(rings[0]), len(rings)
    faces = [(a * n + i, a * n + (i + 1) % n, b * n + (i + 1) % n, b * n + i)
             for a, b in ((k, (k + 1) % count) for k in range(count - (not closed)))
             for i in range(n)]
    if not closed:
        faces += [tuple(reversed(range(n))), tuple(range((count - 1) * n, count * n))]
    return mesh(name, [p for ring in rings for p in ring], faces, mat, smooth)


def disc(steps=48, teeth=0.0):
    """Returns the outline of a disc for `solid`, its rim cut into teeth if asked."""
    def outline(radius):
        for i in range(steps):
            angle, r = math.tau * i / steps, radius * (1 - teeth * (i // 2 % 2))
            yield r * math.cos(angle), r * math.sin(angle)
    return outline


def slab(width, depth, corner=0.05, steps=6):
    """Returns the outline of a rounded rectangle for `solid`, to be grown or shrunk."""
    def outline(grow):
        r = max(corner + grow, 0.001)
        x, y = width / 2 + grow - r, depth / 2 + grow - r
        for quarter, (sx, sy) in enumerate(((1, 1), (-1, 1), (-1, -1), (1, -1))):
            for i in range(steps):
                angle = math.pi / 2 * (quarter + i / (steps - 1))
                yield sx * x + r * math.cos(angle), sy * y + r * math.sin(angle)
    return outline


def soften(profile, width):
    """Rounds the corners of a profile."""
    points = [Vector(p) for p in profile]
    out = [points[0]]
    for before, p, after in zip(points, points[1:], points[2:]):
        a, b = before - p, after - p
        w = min(width, a.length / 3, b.length / 3)
        a, b = a.normalized() * w, b.normalized() * w
        # The outer pair keeps the flat sides flat under smooth shading.
        out += [p + a * 1.4, p + a * 0.7, p + b * 0.7, p + b * 1.4]
    return out + [points[-1]]


def solid(name, profile, mat, outline=None, soft=0.02, **place):
    """Adds an outline swept along a profile of (radius or growth, height) steps."""
    outline = outline or disc()
    rings = [[(x, y, z) for x, y in outline(r)] for r, z in soften(profile, soft)]
    return add(name, loft(name, rings, mat), **place)


def box(name, size, mat, soft=0.02, **place):
    """Adds a soft-edged box that stands on its place."""
    inset = -0.45 * min(size[:2])
    steps = [(inset, 0), (0, 0), (0, size[2]), (inset, size[2])]
    return solid(name, steps, mat, slab(*size[:2], corner=soft), soft, **place)


def ball(name, radius, mat, **place):
    """Adds a sphere."""
    arc = [math.pi * (i / 16 - 0.5) for i in range(17)]
    rings = [[(x, y, radius * math.sin(a)) for x, y in disc(32)(radius * max(math.cos(a), 1e-4))]
             for a in arc]
    return add(name, loft(name, rings, mat), **place)


def glowing(obj):
    """Takes a bright object out of the diffuse light, to which it would add noise."""
    obj.visible_shadow = obj.visible_diffuse = False
    return obj


def hoop(name, radius, thick, mat, **place):
    """Adds a thin ring."""
    rings = [[(x, y, thick * math.sin(a)) for x, y in disc(96)(radius + thick * math.cos(a))]
             for a in (math.tau * i / 6 for i in range(6))]
    return add(name, loft(name, rings, mat, closed=True), **place)
