# SPDX-License-Identifier: MIT OR Apache-2.0
"""Builds the example scenes next to this file.

Run with Blender 3.4: blender -b --factory-startup --python examples/scenes/make.py
"""
import math
import random
import sys
from pathlib import Path

import bpy

# Blender does not put a script's own folder on the path, and must not leave a cache in it.
sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.dont_write_bytecode = True
import parts as p


# orbit.blend: an orrery on a camera's hot shoe


def orbit_palette():
    """Makes the materials of the orbit scene."""
    return {
        "sweep": p.tint(p.material("sweep", (0, 0, 0), 1.0), p.height, (
            (0.025, 0.115, 0.135), (0.035, 0.14, 0.165), (0.06, 0.075, 0.14), (0.06, 0.03, 0.08))),
        "cream": p.material("cream", (0.80, 0.70, 0.54), 0.35),
        "leather": p.material("leather", (0.30, 0.055, 0.03), 0.55),
        "black": p.material("black", (0.012, 0.012, 0.014), 0.35),
        "steel": p.material("steel", (0.75, 0.75, 0.76), 0.22, metal=1),
        "brass": p.material("brass", (0.90, 0.60, 0.24), 0.2, metal=1),
        "coral": p.material("coral", (0.85, 0.16, 0.07), 0.4),
        "teal": p.material("teal", (0.02, 0.30, 0.32), 0.35),
        "mustard": p.material("mustard", (0.85, 0.45, 0.06), 0.5),
        "glass": p.material("glass", (0.90, 0.97, 1.0), 0.0, glass=1),
        "coating": p.tint(p.material("coating", (0, 0, 0), 0.05, metal=0.9), p.facing, (
            (0.01, 0.03, 0.14), (0.22, 0.04, 0.38), (0.85, 0.20, 0.22), (1.0, 0.50, 0.18))),
        "sun": p.tint(p.material("sun", (1.0, 0.5, 0.2), glow=3.2), p.facing, (
            (1.0, 0.62, 0.22), (1.0, 0.45, 0.10), (1.0, 0.20, 0.02)), "Emission"),
        "ember": p.material("ember", (1.0, 0.25, 0.06), glow=3),
    }


def orbit_body(m):
    """Builds the camera body with its dials, windows and hot shoe."""
    body = p.slab(3.0, 0.9, 0.42, 10)
    p.solid("body", [(-0.38, 0), (0, 0), (0, 1.7), (-0.38, 1.7)], m["cream"], body, 0.05)
    p.solid("wrap", [(-0.1, 0.26), (0.02, 0.26), (0.02, 1.2), (-0.1, 1.2)], m["leather"], body)
    p.box("prism", (1.15, 0.66, 0.24), m["cream"], 0.05, at=(0, 0, 1.68))
    for name, x, radius, high, mat in (("speed", 0.92, 0.25, 0.17, "steel"),
                                       ("release", 1.28, 0.09, 0.10, "brass"),
                                       ("rewind", -1.02, 0.29, 0.12, "steel"),
                                       ("crank", -1.02, 0.13, 0.19, "black")):
        p.solid(name, [(0.01, 0), (radius, 0), (radius, high), (0.01, high)], m[mat],
              p.disc(80, 0.05), at=(x, 0, 1.69))
    for name, x, wide, mat in (("finder", -0.95, 0.46, "coating"), ("range", 0.72, 0.24, "coating"),
                               ("lamp", 1.14, 0.09, "ember")):
        p.box(name + "_rim", (wide + 0.09, 0.3, 0.03), m["black"], at=(x, -0.44, 1.45), turn=(90, 0, 0))
        p.box(name, (wide, 0.21, 0.05), m[mat], at=(x, -0.44, 1.45), turn=(90, 0, 0))
    p.box("shoe", (0.46, 0.44, 0.04), m["steel"], at=(0, 0, 1.91))
    for side in (-1, 1):
        p.box("rail", (0.05, 0.44, 0.12), m["steel"], at=(side * 0.22, 0, 1.92))
        p.box("lip", (0.11, 0.44, 0.03), m["steel"], at=(side * 0.19, 0, 2.03))
    p.box("foot", (0.30, 0.38, 0.09), m["brass"], at=(0, 0, 1.95))


def orbit_lens(m):
    """Builds the lens out of turned rings."""
    lens = p.add("lens", at=(0, -0.44, 0.80), turn=(90, 0, 0))
    for name, radius, low, high, mat, rim in (
            ("mount", 0.74, 0.00, 0.12, "steel", p.disc()),
            ("barrel", 0.66, 0.10, 0.36, "black", p.disc()),
            ("focus", 0.71, 0.22, 0.46, "black", p.disc(96, 0.04)),
            ("mark", 0.67, 0.48, 0.52, "coral", p.disc()),
            ("stops", 0.68, 0.55, 0.68, "steel", p.disc(128, 0.03))):
        p.solid(name, [(0.3, low), (radius, low), (radius, high), (0.3, high)], m[mat], rim, parent=lens)
    p.solid("hood", [(0.3, 0.4), (0.62, 0.4), (0.62, 0.94), (0.55, 0.94), (0.5, 0.78), (0.34, 0.6),
                   (0.32, 0.5), (0.01, 0.5)], m["black"], parent=lens)
    p.hoop("trim", 0.585, 0.016, m["brass"], at=(0, 0, 0.94), parent=lens)
    p.hoop("iris", 0.30, 0.02, m["ember"], at=(0, 0, 0.6), parent=lens)
    dome = [(0.505 * math.cos(a), 0.74 + 0.16 * math.sin(a)) for a in (i * math.pi / 26 for i in range(13))]
    p.solid("front", dome, m["coating"], parent=lens)


def orbit_orrery(m):
    """Builds the sun on the shoe with planets that travel on their rings."""
    p.solid("stem", [(0.13, 0), (0.05, 0.08), (0.025, 0.2), (0.025, 0.8)], m["brass"], at=(0, 0, 2.03))
    hub = p.add("hub", at=(0, 0, 2.86), turn=(14, -7, 0))
    p.glowing(p.ball("sun", 0.27, m["sun"], parent=hub))
    shine = bpy.data.lights.new("shine", "POINT")
    shine.shadow_soft_size, shine.energy, shine.color = 0.26, 130, (1.0, 0.62, 0.28)
    p.add("shine", shine, parent=hub)
    for radius, angle, travel, planets in (
            (0.62, 200, 70, [(0.09, "steel", 0)]),
            (1.05, 320, 50, [(0.17, "coral", 0), (0.06, "cream", 150)]),
            (1.55, 215, 36, [(0.21, "glass", 0), (0.11, "mustard", 190)]),
            (2.15, 330, 26, [(0.24, "teal", 0), (0.13, "brass", 95), (0.15, "cream", 215)])):
        ring = p.hoop("ring", radius, 0.009, m["brass"], parent=hub)
        for size, mat, offset in planets:
            a = math.radians(offset)
            at = (radius * math.cos(a), radius * math.sin(a), 0)
            p.ball("planet", size, m[mat], at=at, parent=ring)
            if mat == "teal":
                p.hoop("halo", size * 1.6, 0.02, m["brass"], at=at, turn=(18, 12, 0), parent=ring)
        p.animate(ring, "rotation_euler", 2, [math.radians(angle), math.radians(angle + travel)], True)


def make_orbit():
    """Writes orbit.blend."""
    p.new_scene("orbit", (640, 360), 20)
    m = orbit_palette()
    p.world(((0.10, 0.16, 0.20), (0.42, 0.48, 0.55)), 0.9)
    arc = [(4 + 3 * math.sin(a), 3 - 3 * math.cos(a)) for a in (i * math.pi / 32 for i in range(17))]
    side = [(-9, 0), *arc, (7, 9)]
    p.add("sweep", p.mesh("sweep", [(x, y, z) for y, z in side for x in (-16, 16)],
                      [(2 * i, 2 * i + 1, 2 * i + 3, 2 * i + 2) for i in range(len(side) - 1)], m["sweep"]))
    orbit_body(m)
    orbit_lens(m)
    orbit_orrery(m)
    for x, y, size, mat in ((-2.2, -0.5, 0.30, "coral"), (-1.75, -1.15, 0.14, "brass"),
                            (2.25, -0.2, 0.36, "glass"), (1.75, -1.2, 0.17, "mustard"),
                            (2.8, -0.9, 0.12, "steel")):
        p.ball("marble", size, m[mat], at=(x, y, size))
    p.area("key", (-4.5, -5.5, 6), (0, 0, 1.2), 4.5, 620, (1.0, 0.92, 0.82))
    pivot = p.add("pivot", at=(0, 0, 1.66))
    p.camera((0, -10.0, 1.0), (0, 0, 0), 52, pivot)
    p.animate(pivot, "rotation_euler", 2, [math.radians(-4), math.radians(28)])
    p.save("orbit.blend")


# courtyard.blend: two view layers, a compositor and an image texture


def write_tiles(path, size=192):
    """Draws the floor's texture: four quarter circles around a star."""
    dice = random.Random(3)
    colors = ((0.80, 0.72, 0.60), (0.13, 0.36, 0.42), (0.72, 0.33, 0.20), (0.36, 0.33, 0.30))
    pixels = []
    for row in range(size):
        for column in range(size):
            x, y = abs(column / size * 2 - 1), abs(row / size * 2 - 1)
            corner, star = math.hypot(1 - x, 1 - y), x + y + 1.6 * x * y
            kind = 3 if max(x, y) > 0.98 else 1 if 0.42 < corner < 0.62 else 2 if star < 0.5 else 0
            shade = 1 - 0.06 * dice.random()
            pixels += [c * shade for c in colors[kind]] + [1.0]
    image = bpy.data.images.new("tiles", size, size)
    image.pixels.foreach_set(pixels)
    image.filepath_raw, image.file_format = str(path), "PNG"
    path.parent.mkdir(exist_ok=True)
    image.save()
    bpy.data.images.remove(image)


def tiled(mat, name, repeat):
    """Covers a material with an image beside the scene."""
    tree = mat.node_tree
    image = tree.nodes.new("ShaderNodeTexImage")
    image.image = bpy.data.images.load(str(p.HERE / name))
    image.image.filepath = "//" + name
    coord, mapping = tree.nodes.new("ShaderNodeTexCoord"), tree.nodes.new("ShaderNodeMapping")
    mapping.inputs["Scale"].default_value = (repeat, repeat, 1)
    tree.links.new(coord.outputs["Generated"], mapping.inputs["Vector"])
    tree.links.new(mapping.outputs["Vector"], image.inputs["Vector"])
    tree.links.new(image.outputs["Color"], tree.nodes["Principled BSDF"].inputs["Base Color"])
    return mat


def arcade(start, step, turn, count, stone, court, lanterns):
    """Builds a row of arches on columns with a swinging lantern in each."""
    rings = [(-1.0, 2.0), *((-0.8 * math.cos(a), 2 + 0.8 * math.sin(a))
                            for a in (math.pi * i / 16 for i in range(17))), (1.0, 2.0)]
    arch = p.loft("arch", [[(x, -0.2, z), (x, 0.2, z), (x, 0.2, 3.3), (x, -0.2, 3.3)] for x, z in rings],
                  stone["wall"], smooth=False)
    shaft = [(0.01, 0), (0.24, 0), (0.24, 0.14), (0.15, 0.2), (0.13, 1.75), (0.24, 1.9), (0.24, 2.02), (0.01, 2.02)]
    for i in range(count):
        x, y = start[0] + i * step[0], start[1] + i * step[1]
        p.add("arch", arch, (x, y, 0), (0, 0, turn), to=court)
        p.solid("column", shaft, stone["column"], p.disc(20), at=(x - step[0] / 2, y - step[1] / 2, 0), to=court)
        hook = p.add("hook", None, (x, y, 2.8), (0, 0, turn), to=lanterns)
        p.solid("chain", [(0.01, -0.5), (0.01, 0)], stone["iron"], p.disc(6), parent=hook, to=lanterns)
        p.glowing(p.ball("lantern", 0.13, stone["flame"], at=(0, 0, -0.6), parent=hook, to=lanterns))
        swing = math.radians(9 if i % 2 else -9)
        p.animate(hook, "rotation_euler", 0, [swing, -swing, swing])


def planter(x, y, stone, dice, court):
    """Builds a pot with a round tree."""
    pot = [(0.01, 0), (0.26, 0), (0.36, 0.5), (0.40, 0.5), (0.40, 0.58), (0.33, 0.58), (0.33, 0.5), (0.01, 0.5)]
    p.solid("pot", pot, stone["clay"], p.disc(24), at=(x, y, 0), to=court)
    p.solid("trunk", [(0.05, 0.5), (0.04, 1.2)], stone["iron"], p.disc(8), at=(x, y, 0), to=court)
    for _ in range(7):
        at = [c + dice.uniform(-0.22, 0.22) for c in (x, y, 1.35)]
        p.ball("leaves", dice.uniform(0.26, 0.36), stone["leaf"], at=at, to=court)


def composite(scene):
    """Adds the lanterns' glow to the graded court and writes the depth beside it."""
    scene.use_nodes = True
    scene.render.use_compositing = True
    tree = scene.node_tree
    tree.nodes.clear()
    node, link = tree.nodes.new, tree.links.new
    court, lights = node("CompositorNodeRLayers"), node("CompositorNodeRLayers")
    court.layer, lights.layer = "court", "lanterns"
    grade, glare, both = node("CompositorNodeColorBalance"), node("CompositorNodeGlare"), node("CompositorNodeMixRGB")
    grade.lift, grade.gain = (0.98, 0.99, 1.04), (1.08, 1.02, 0.96)
    glare.glare_type, glare.quality, glare.size, glare.mix = "FOG_GLOW", "HIGH", 7, 1.0
    both.blend_type = "ADD"
    depth, files = node("CompositorNodeMapRange"), node("CompositorNodeOutputFile")
    for name, value in (("From Min", 4), ("From Max", 17), ("To Min", 1), ("To Max", 0)):
        depth.inputs[name].default_value = value
    depth.use_clamp = True
    files.base_path = "//passes/"
    files.format.file_format, files.format.color_mode = "PNG", "BW"
    files.file_slots.clear()
    files.file_slots.new("depth_")
    link(court.outputs["Image"], grade.inputs["Image"])
    link(lights.outputs["Image"], glare.inputs["Image"])
    link(grade.outputs["Image"], both.inputs[1])
    link(glare.outputs["Image"], both.inputs[2])
    link(both.outputs["Image"], node("CompositorNodeComposite").inputs["Image"])
    link(court.outputs["Depth"], depth.inputs["Value"])
    link(depth.outputs["Value"], files.inputs[0])


def court_layers(scene):
    """Makes the scene's two collections, and a view layer that keeps only the lanterns."""
    court, lanterns = (bpy.data.collections.new(name) for name in ("court", "lanterns"))
    scene.collection.children.link(court)
    scene.collection.children.link(lanterns)
    scene.view_layers[0].name = "court"
    scene.view_layers[0].use_pass_z = True
    glow = scene.view_layers.new("lanterns")
    glow.cycles.use_denoising = False
    glow.layer_collection.children["court"].holdout = True
    return court, lanterns


def make_courtyard():
    """Writes courtyard.blend and its texture."""
    scene = p.new_scene("courtyard", (480, 270), 16)
    write_tiles(p.HERE / "textures/tiles.png")
    court, lanterns = court_layers(scene)
    p.world(((0.95, 0.50, 0.30), (0.45, 0.36, 0.48), (0.14, 0.22, 0.48), (0.10, 0.16, 0.40)))
    stone = {
        "floor": tiled(p.material("floor", (1, 1, 1), 0.35), "textures/tiles.png", 16),
        "wall": p.material("wall", (0.72, 0.50, 0.36), 1.0),
        "plaster": p.material("plaster", (0.50, 0.17, 0.10), 1.0),
        "column": p.material("column", (0.80, 0.72, 0.62), 0.6),
        "iron": p.material("iron", (0.03, 0.025, 0.02), 0.6),
        "clay": p.material("clay", (0.55, 0.20, 0.10), 1.0),
        "leaf": p.material("leaf", (0.06, 0.16, 0.05), 1.0),
        "water": p.material("water", (0.04, 0.26, 0.30), 0.15),
        "flame": p.material("flame", (1.0, 0.48, 0.14), glow=6),
    }
    p.add("floor", p.mesh("floor", [(-8, -8, 0), (8, -8, 0), (8, 8, 0), (-8, 8, 0)], [(0, 1, 2, 3)],
                          stone["floor"]), to=court)
    arcade((-4, 4), (2, 0), 0, 5, stone, court, lanterns)
    arcade((-5, -3), (0, 2), 90, 4, stone, court, lanterns)
    arcade((5, -3), (0, 2), 90, 4, stone, court, lanterns)
    for at, size in (((0, 6, 0), (16, 0.4, 3.6)), ((-7, 0, 0), (0.4, 12, 3.6)), ((7, 0, 0), (0.4, 12, 3.6))):
        p.box("wall", size, stone["plaster"], at=at, to=court)
    fountain = [(0.01, 0), (1.4, 0), (1.5, 0.5), (1.34, 0.5), (1.3, 0.2), (0.3, 0.2), (0.14, 0.5), (0.12, 1.1),
                (0.6, 1.3), (0.62, 1.36), (0.1, 1.26), (0.08, 1.5), (0.01, 1.5)]
    p.solid("fountain", fountain, stone["column"], to=court)
    p.solid("pool", [(1.33, 0.3), (1.33, 0.4)], stone["water"], to=court)
    p.ball("finial", 0.16, stone["column"], at=(0, 0, 1.6), to=court)
    dice = random.Random(7)
    for x, y in ((-3.2, 2.4), (3.2, 2.4), (-3.2, -1.4), (3.2, -1.4)):
        planter(x, y, stone, dice, court)
    p.lamp("SUN", (-6, -5, 5), (0, 0, 0), 3.0, (1.0, 0.72, 0.46), 0.06)
    camera = p.camera((-1.2, -9.5, 2.9), (0, 1, 1.3), 32)
    p.animate(camera, "location", 0, [-1.2, 1.2])
    p.animate(camera, "rotation_euler", 2, [math.radians(-6.5), math.radians(6.5)])
    composite(scene)
    p.save("courtyard.blend")


# market.blend: objects linked from a library


def make_library():
    """Writes library/crates.blend with what the market links."""
    scene = p.new_scene("crates", (480, 270), 16)
    dice = random.Random(11)
    wood = p.material("wood", (0.50, 0.27, 0.11), 0.7)
    cloth = [p.material("cloth", c, 1.0) for c in ((0.78, 0.70, 0.56), (0.62, 0.07, 0.06))]

    def collection(name):
        made = bpy.data.collections.new(name)
        scene.collection.children.link(made)
        return made

    for name, color in (("orange", (0.90, 0.30, 0.02)), ("lime", (0.32, 0.50, 0.04)),
                        ("plum", (0.20, 0.03, 0.12)), ("lemon", (0.90, 0.62, 0.05)), ("empty", None)):
        crate = collection("crate_" + name)
        p.box("floor", (0.7, 0.5, 0.02), wood, 0.006, at=(0, 0, 0.02), to=crate)
        for z in (0.03, 0.13):
            for side in (-1, 1):
                p.box("slat", (0.72, 0.02, 0.08), wood, 0.006, at=(0, side * 0.25, z), to=crate)
                p.box("slat", (0.02, 0.5, 0.08), wood, 0.006, at=(side * 0.35, 0, z), to=crate)
        if color:
            fruit = p.ball("fruit", 0.075, p.material(name, color, 0.4), at=(0, 0, 0.25), to=crate).data
            for i in range(20):
                at = [(i % 5 - 2) * 0.13, (i // 5 - 1.5) * 0.12, 0.17]
                p.add("fruit", fruit, [c + dice.uniform(-0.015, 0.015) for c in at], to=crate)
    stall = collection("stall")
    p.box("table", (2.2, 1.3, 0.06), wood, at=(0, 0, 0.78), to=stall)
    for x in (-1.05, 1.05):
        for y, high in ((-0.62, 2.0), (0.62, 2.4)):
            p.box("post", (0.07, 0.07, high), wood, at=(x, y, 0), to=stall)
    for i in range(10):
        p.box("stripe", (0.24, 1.7, 0.02), cloth[i % 2], 0.006, at=(-1.08 + i * 0.24, -0.05, 2.2), turn=(18, 0, 0),
              to=stall)
    p.ball("bulb", 0.06, p.material("bulb", (1.0, 0.60, 0.25), glow=8), to=collection("lights"))
    (p.HERE / "library").mkdir(exist_ok=True)
    p.save("library/crates.blend")


def link_library():
    """Links the library's collections and its bulb's mesh into the open file."""
    # The path can be stored relative to the open file only once that file has a place of its own.
    p.save("market.blend")
    with bpy.data.libraries.load(str(p.HERE / "library/crates.blend"), link=True, relative=True) as (there, here):
        here.collections = [name for name in there.collections if name != "lights"]
        here.meshes = ["bulb"]
    return {made.name: made for made in here.collections}, here.meshes[0]


def place(collection, at, turn=0.0, tilt=0.0):
    """Adds an instance of a linked collection."""
    holder = p.add(collection.name, None, at, (tilt, 0, turn))
    holder.instance_type, holder.instance_collection = "COLLECTION", collection


def pave(width, depth, size, middle, stone):
    """Lays setts in staggered rows: one stone, repeated on the points of a mesh."""
    dice = random.Random(2)
    points = [((column + row % 2 / 2) * size - width / 2, row * size - depth / 2, -size / 2 + dice.uniform(-0.004, 0.004))
              for row in range(round(depth / size)) for column in range(round(width / size))]
    bed = p.add("paving", p.mesh("paving", points, [], stone, False), middle)
    bed.instance_type = "VERTS"
    p.box("sett", (0.9 * size, 0.9 * size, size / 2), stone, 0.15 * size, parent=bed)


def masonry(width, height, middle, stone):
    """Builds a wall of stones in courses, each half a stone off the one below."""
    long, high, (x, y, z) = 0.5, 0.2, middle
    first = p.box("wall", (0.97 * long, high, 0.95 * high), stone, 0.012, at=(x - width / 2, y, z))
    for offset, count in (((long / 2, 0, high), 2), ((long, 0, 0), round(width / long)),
                          ((0, 0, 2 * high), round(height / high / 2))):
        again = first.modifiers.new("again", "ARRAY")
        again.use_relative_offset, again.use_constant_offset = False, True
        again.constant_offset_displace, again.count = offset, count


def make_market():
    """Writes market.blend."""
    p.new_scene("market", (480, 270), 12)
    linked, bulb = link_library()
    p.world(((0.50, 0.42, 0.50), (0.10, 0.14, 0.32)), 0.9)
    ground = p.material("ground", (0.10, 0.09, 0.08), 1.0)
    sett = p.tint(p.material("sett", (0, 0, 0), 1.0), p.chance, (
        (0.19, 0.17, 0.16), (0.27, 0.23, 0.20), (0.22, 0.21, 0.22)))
    plaster = p.material("plaster", (0.20, 0.26, 0.34), 1.0)
    p.add("ground", p.mesh("ground", [(-12, -8, 0), (12, -8, 0), (12, 4, 0), (-12, 4, 0)], [(0, 1, 2, 3)], ground),
          (0, 0, -0.02))
    pave(24, 8, 0.08, (0, -1, 0), sett)
    p.box("mortar", (24, 0.4, 7), ground, at=(0, 3, 0))
    masonry(24, 7, (0, 2.75, 0), plaster)
    dice = random.Random(5)
    full = [name for name in linked if name not in ("stall", "crate_empty")]
    for x in (-2.9, 0, 2.9):
        place(linked["stall"], (x, 0, 0))
        for i in range(4):
            kind = linked[dice.choice(full)]
            place(kind, (x - 0.45 + i % 2 * 0.9, -0.3 + i // 2 * 0.55, 0.86 + i // 2 * 0.1), dice.uniform(-5, 5), 10)
    for x, y, count in ((-1.5, -0.9, 2), (1.6, -1.1, 3), (4.6, -0.6, 2), (-4.7, -0.8, 3)):
        for i in range(count):
            top = linked[dice.choice(full)] if i == count - 1 else linked["crate_empty"]
            place(top, (x, y, i * 0.22), dice.uniform(-14, 14))
    for i in range(25):
        x = (i - 12) * 0.5
        p.glowing(p.add("bulb", bulb, (x, -0.9, 2.45 + 0.35 * abs(math.sin(x * math.pi / 3)))))
    p.area("key", (-2, -4.5, 4.5), (0, 0, 0.9), 5, 480, (1.0, 0.78, 0.55))
    camera = p.camera((-1.4, -7.2, 2.1), (0, 0, 1.25), 36)
    p.animate(camera, "location", 0, [-1.4, 1.4])
    p.animate(camera, "rotation_euler", 2, [math.radians(-8), math.radians(8)])
    p.save("market.blend")


make_orbit()
make_courtyard()
make_library()
make_market()
