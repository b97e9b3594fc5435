"""Pictures of a square room with boxes and balls in it, drawn by OpenGL without a display.

Textures, meshes and frame buffers are miniworld's; its environments are not used, so that a picture is a function of
a `Scene` and nothing else. Where there is no display (Linux without `DISPLAY`) pyglet is told to draw through EGL,
before it is first imported; nothing is imported until the first picture.

An OpenGL context belongs to one thread: a thread of ours holds the only one and draws for all others. Equal scenes
give equal bytes, also in another process, as long as the driver is the same; another driver or graphics card rounds
differently.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from ..errors import ArenaError, missing_extra

WALL_HEIGHT, EYE_HEIGHT, FIELD_OF_VIEW = 2.74, 1.5, 60  # metres, metres, degrees
BOX, BALL = (0.7, 1.5), 0.85  # width and height; diameter
AMBIENT, DIFFUSE = 0.45, 0.7
LIGHT = (1.0, 3.5, 1.0, 0.0)  # a direction: what miniworld makes of its light at (0, 2.5, 0)
SAMPLES = 4  # a pixel; every driver has as many
TEXELS = 512  # a metre of wall, floor or ceiling
CEILING = "ceiling_tile_noborder"
STEPS = ((0, 1), (-1, 0), (0, -1), (1, 0))  # one step ahead, (row, column), for each heading; the next is to the left


@dataclass(frozen=True)
class Thing:
    """A box or a ball standing at (row, column), in metres, with a colour of miniworld and, for boxes, a texture."""

    kind: Literal["box", "ball"]
    colour: str
    row: float
    column: float
    texture: str = ""


@dataclass(frozen=True)
class Scene:
    """What there is to see: a room of `room` metres square, things, and where the viewer stands and looks."""

    room: int
    wall: str
    floor: str
    things: tuple[Thing, ...]
    row: float
    column: float
    heading: int


def check_installed() -> None:
    """Raise `MissingExtra` without miniworld; imports nothing."""
    if importlib.util.find_spec("miniworld") is None:
        raise missing_extra("miniworld", "arenas", "a block world")


def draw(scene: Scene, side: int) -> np.ndarray:
    """Return what the viewer sees, uint8 `(side, side, 3)`.

    Raises `MissingExtra` without miniworld, `ArenaError` where OpenGL cannot be used.
    """
    return _STUDIO.thread().submit(_STUDIO.paint, scene, side).result()


class _Studio:
    """The thread that draws, and what it draws with; both begin when first needed."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "terrella-stage")
        self._painter: _Painter | None = None
        self._forked = False

    def thread(self) -> ThreadPoolExecutor:
        if self._forked:
            raise ArenaError(
                "this process was forked from one that had drawn pictures, and OpenGL does not survive that. Start "
                "processes with the method 'spawn', or draw nothing before."
            )
        return self._thread

    def paint(self, scene: Scene, side: int) -> np.ndarray:
        if self._painter is None:
            self._painter = _Painter()
        return self._painter.paint(scene, side)

    def after_fork(self) -> None:
        self._forked, self._thread = self._painter is not None, ThreadPoolExecutor(1, "terrella-stage")


_STUDIO = _Studio()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_STUDIO.after_fork)


class _Painter:
    """One OpenGL context, with a frame buffer for each size and a display list for each room and kind of box."""

    def __init__(self) -> None:
        check_installed()
        try:
            import pyglet

            if sys.platform == "linux" and not os.environ.get("DISPLAY"):
                pyglet.options["headless"] = True
            with _one_thread():
                from miniworld import entity, opengl
                from pyglet import gl

                self._window: Any = pyglet.window.Window(width=1, height=1, visible=False)
        except Exception as error:  # pyglet has no common base for what it raises without libraries or a display
            raise ArenaError(
                f"cannot draw with OpenGL: {type(error).__name__}: {error}. Without a display it takes the libraries "
                "EGL, GL and GLU (on Debian: apt install libegl1 libgl1 libglu1-mesa); a DISPLAY that nobody serves "
                "must be unset."
            ) from error
        self._gl: Any = gl
        self._entity, self._opengl = entity, opengl
        self._buffers: dict[int, Any] = {}
        self._lists: dict[object, int] = {}
        self._balls: dict[str, Any] = {}
        gl.glGenLists(1)  # never used: lists are shared, and miniworld's environments overwrite the first one
        for switch in (gl.GL_DEPTH_TEST, gl.GL_CULL_FACE, gl.GL_LIGHTING, gl.GL_LIGHT0, gl.GL_COLOR_MATERIAL):
            gl.glEnable(switch)
        gl.glShadeModel(gl.GL_SMOOTH)
        gl.glColorMaterial(gl.GL_FRONT_AND_BACK, gl.GL_AMBIENT_AND_DIFFUSE)
        gl.glLightfv(gl.GL_LIGHT0, gl.GL_AMBIENT, (gl.GLfloat * 4)(*[AMBIENT] * 3, 1))
        gl.glLightfv(gl.GL_LIGHT0, gl.GL_DIFFUSE, (gl.GLfloat * 4)(*[DIFFUSE] * 3, 1))

    def paint(self, scene: Scene, side: int) -> np.ndarray:
        gl = self._gl
        self._window.switch_to()
        if side not in self._buffers:
            self._buffers[side] = self._opengl.FrameBuffer(side, side, SAMPLES)
        room = self._compiled(_room, scene.room, scene.wall, scene.floor)
        self._buffers[side].bind()
        gl.glClear(gl.GL_COLOR_BUFFER_BIT | gl.GL_DEPTH_BUFFER_BIT)
        gl.glMatrixMode(gl.GL_PROJECTION)
        gl.glLoadIdentity()
        gl.gluPerspective(FIELD_OF_VIEW, 1.0, 0.04, 100.0)
        gl.glMatrixMode(gl.GL_MODELVIEW)
        gl.glLoadIdentity()
        down, right = STEPS[scene.heading]
        eye = (scene.column, EYE_HEIGHT, scene.row)
        gl.gluLookAt(*eye, scene.column + right, EYE_HEIGHT, scene.row + down, 0, 1, 0)
        gl.glLightfv(gl.GL_LIGHT0, gl.GL_POSITION, (gl.GLfloat * 4)(*LIGHT))
        gl.glCallList(room)
        for thing in scene.things:
            if thing.kind == "ball":
                self._draw_ball(thing)
                continue
            box = self._compiled(_box, thing.colour, thing.texture)
            gl.glPushMatrix()
            gl.glTranslatef(thing.column, 0, thing.row)
            gl.glCallList(box)
            gl.glPopMatrix()
        return self._buffers[side].resolve()

    def _draw_ball(self, thing: Thing) -> None:
        if thing.colour not in self._balls:
            self._balls[thing.colour] = self._entity.Ball(thing.colour, BALL)
        ball = self._balls[thing.colour]
        ball.pos, ball.dir = (thing.column, 0, thing.row), 0
        ball.render()

    def _compiled(self, faces: Callable[..., list[_Face]], *key: Any) -> int:
        """Return the display list of the polygons that `faces(*key)` names."""
        gl = self._gl
        if (faces, key) not in self._lists:
            # Textures are loaded first: inside a list, loading would become part of it.
            polygons = [
                (face, self._opengl.Texture.get(face.texture) if face.texture else None) for face in faces(*key)
            ]
            self._lists[faces, key] = number = gl.glGenLists(1)
            gl.glNewList(number, gl.GL_COMPILE)
            for face, texture in polygons:
                gl.glColor3f(*(self._entity.COLORS[face.colour] if face.colour else (1, 1, 1)))
                (gl.glEnable if texture else gl.glDisable)(gl.GL_TEXTURE_2D)
                scale = (1.0, 1.0)
                if texture:
                    texture.bind()
                    scale = (1.0, 1.0) if face.stretched else (TEXELS / texture.width, TEXELS / texture.height)
                gl.glBegin(gl.GL_POLYGON)
                gl.glNormal3f(*face.normal)
                for corner, (u, v) in zip(face.corners, face.places):
                    gl.glTexCoord2f(u * scale[0], v * scale[1])
                    gl.glVertex3f(*corner)
                gl.glEnd()
            gl.glEndList()
        return self._lists[faces, key]


@contextmanager
def _one_thread() -> Iterator[None]:
    """Let Mesa, where it draws on the processor, do so in our thread: several only wait for each other at this size."""
    name = "LP_NUM_THREADS"
    ours = name not in os.environ
    os.environ.setdefault(name, "0")
    try:
        yield
    finally:
        if ours:
            del os.environ[name]


@dataclass(frozen=True)
class _Face:
    """A polygon, counter-clockwise from outside; `places` in its texture are metres, or parts of it if `stretched`."""

    normal: tuple[float, float, float]
    corners: tuple[tuple[float, float, float], ...]
    places: tuple[tuple[float, float], ...]
    texture: str
    colour: str = ""
    stretched: bool = False


def _room(side: int, wall: str, floor: str) -> list[_Face]:
    """Floor, ceiling and walls, each one polygon, so that light is computed at its corners only."""
    plan = ((side, side), (side, 0), (0, 0), (0, side))  # x, z
    faces = [
        _Face((0, 1, 0), tuple((x, 0, z) for x, z in plan), plan, floor),
        _Face((0, -1, 0), tuple((x, WALL_HEIGHT, z) for x, z in plan[::-1]), plan[::-1], CEILING),
    ]
    places = ((0, 0), (0, WALL_HEIGHT), (side, WALL_HEIGHT), (side, 0))
    for (x, z), (to_x, to_z) in zip(plan, plan[1:] + plan[:1]):
        corners = ((x, 0, z), (x, WALL_HEIGHT, z), (to_x, WALL_HEIGHT, to_z), (to_x, 0, to_z))
        faces.append(_Face(((to_z - z) / side, 0, (x - to_x) / side), corners, places, wall))
    return faces


def _box(colour: str, texture: str) -> list[_Face]:
    """The six faces of a box around the origin, standing on the floor."""
    r, height = BOX[0] / 2, BOX[1]
    plan = ((r, r), (r, -r), (-r, -r), (-r, r))  # x, z
    whole = ((0, 0), (1, 0), (1, 1), (0, 1))
    faces = [
        _Face((0, 1, 0), tuple((x, height, z) for x, z in plan), whole, texture, colour, True),
        _Face((0, -1, 0), tuple((x, 0, z) for x, z in plan[::-1]), whole, texture, colour, True),
    ]
    for (x, z), (to_x, to_z) in zip(plan, plan[1:] + plan[:1]):
        corners = ((x, 0, z), (to_x, 0, to_z), (to_x, height, to_z), (x, height, z))
        faces.append(_Face(((z - to_z) / BOX[0], 0, (to_x - x) / BOX[0]), corners, whole, texture, colour, True))
    return faces
