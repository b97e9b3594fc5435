"""Pictures that drift over a torus, seen through a window that slides: a world that goes on where nobody looks.

The whole truth is at hand (`truth`, `panorama`, `coverage`), so that a world model's memory of what left the view can
be compared with what became of it. One tick: the action moves the camera, every sprite moves by its velocity, then the
view is rendered; the action from frame t to t+1 is the camera's displacement between them.

| id | world | window | sprites | side | speed | move |
|---|---|---|---|---|---|---|
| `terrella/SpritesMicro-v0` | 16 | 8 | 2 | 6 | 1 | 3 |
| `terrella/Sprites-v0` | 24 | 12 | 3 | 8 | 1 | 4 |
| `terrella/SpritesStill-v0` | 24 | 12 | 3 | 8 | 0 | 4 |
| `terrella/SpritesMid-v0` | 32 | 20 | 4 | 14 | 1 | 6 |
| `terrella/SpritesPaper-v0` | 50 | 32 | 5 | 20 | 1 | 10 |

Ref: the MNIST World of FloWM, arXiv 2601.01075. Differences: scikit-learn's digits (8x8, no download), some of them
held out; frames are kept as they are instead of as lossy video; the camera is where its view begins, not its middle.
These digits fill their square, where MNIST's leave a margin of 4 in 28: 20 pixels give the published share of ink.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from PIL import Image

from ..errors import ArenaError, missing_extra
from ..spec import Motion
from .base import Simulator, adapter
from .quantity import Quantity, attribute

PRESETS: dict[str, dict[str, int]] = {
    "Sprites": {},
    "SpritesMicro": {"world": 16, "window": 8, "count": 2, "sprite": 6, "move": 3},
    "SpritesMid": {"world": 32, "window": 20, "count": 4, "sprite": 14, "move": 6},
    "SpritesPaper": {"world": 50, "window": 32, "count": 5, "sprite": 20, "move": 10},
}
HOLD_OUT = 5  # one image in so many is kept for worlds with `held_out`
PICTURE = 256  # about the side of a rendered view
FRAME_COLOUR = (255, 176, 32)
UP, DOWN, RIGHT, LEFT, SPACE = 1073741906, 1073741905, 1073741903, 1073741904, 32  # pygame's numbers
_CHANGING = ("_camera", "_positions", "_velocities", "_images", "_seen")


class SpriteWorld(gym.Env[np.ndarray, np.ndarray]):
    """`count` pictures of `sprite` pixels square on a torus of `world` pixels, seen through `window` pixels.

    Observation: uint8 `(window, window, 1)`, the clamped sum of the sprites. Actions: `MultiDiscrete([2m+1, 2m+1])`,
    m = `move`: the camera goes down and right by the two numbers minus m. Rewards: 0. End: never (registered ids are
    truncated after 1,000 steps). `info`: `covered`, whether every pixel of the world was in view this episode.

    At a reset each sprite draws an image (repeats allowed), a place, and for each axis a velocity in `-speed..speed`,
    which it keeps; the camera begins at (0, 0). static: nothing but the camera moves; images and places are those of
    the moving world of equal seed. full: the window shows the whole torus. images: other pictures than digits, either
    an array `(n, h, w)` of uint8 or of floats in [0, 1], or a folder of image files, read in grey. held_out: draw
    from every fifth image, which the other worlds never show. overview: `render` also shows the torus, with the
    window's outline. Images are resized to the sprite's size by the area filter where they are larger, else bilinearly.

    Frames are final: `terrella.arenas.make` resizes them only when told to, since actions are counted in pixels
    (`motion`).

    Raises `ArenaError` for numbers or images that make no world, `MissingExtra` without scikit-learn and `images`.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012 - Gymnasium's own form
    final_frames = True

    def __init__(
        self,
        *,
        world: int = 24,
        window: int = 12,
        count: int = 3,
        sprite: int = 8,
        speed: int = 1,
        move: int = 4,
        static: bool = False,
        full: bool = False,
        held_out: bool = False,
        images: str | Path | np.ndarray | Sequence[Any] | None = None,
        overview: bool = False,
        render_mode: str | None = None,
    ) -> None:
        window = world if full else window
        if not (1 <= window <= world and 1 <= sprite <= world and count >= 1 and speed >= 0 and move >= 0):
            raise ArenaError(
                f"world is {world}, window {window}, sprite {sprite}, count {count}, speed {speed}, move {move}; "
                "expected window and sprite between 1 and world, count at least 1, speed and move at least 0."
            )
        self.world, self.window, self.count, self.sprite = world, window, count, sprite
        self.speed, self.move, self.static = speed, move, static
        self.bank = _split(_digits(sprite) if images is None else _load(images, sprite), held_out)
        self.overview, self.render_mode = overview, render_mode
        self.observation_space = spaces.Box(0, 255, (window, window, 1), np.uint8)
        self.action_space = spaces.MultiDiscrete([2 * move + 1] * 2)
        steps = range(-move, move + 1)
        self.motion = Motion((tuple((d, 0, 0) for d in steps), tuple((0, d, 0) for d in steps)), extent=(world, world))
        self._place(np.zeros((count, 2), np.int64), np.zeros((count, 2), np.int64), np.zeros(count, np.int64))

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin with other sprites, drawn from the environment's random stream."""
        super().reset(seed=seed)
        random, shape = self.np_random, (self.count, 2)
        images, positions = random.integers(len(self.bank), size=self.count), random.integers(self.world, size=shape)
        velocities = random.integers(-self.speed, self.speed + 1, size=shape)
        self._place(positions, velocities * (not self.static), images)
        return self._observe()

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Move the camera, then the sprites, then look; raises `ArenaError` for an action outside the space."""
        choice = np.asarray(action)
        if (
            choice.shape != (2,)
            or choice.dtype.kind not in "iu"
            or (choice < 0).any()
            or (choice > 2 * self.move).any()
        ):
            raise ArenaError(f"action {action!r} is not two integers between 0 and {2 * self.move}.")
        self._camera = (self._camera + choice - self.move) % self.world
        self._positions = (self._positions + self._velocities) % self.world
        observation, info = self._observe()
        return observation, 0.0, False, False, info

    @property
    def truth(self) -> dict[str, np.ndarray]:
        """The state: `camera` `(2,)`, `positions` and `velocities` `(count, 2)`, `images` `(count,)`, places in `bank`.

        Rows come before columns. The camera and the positions are those of the top left pixels.
        """
        state = (self._camera, self._positions, self._velocities, self._images)
        return {name: x.copy() for name, x in zip(("camera", "positions", "velocities", "images"), state)}

    def view_with(self, positions: np.ndarray) -> np.ndarray:
        """Return what the camera would see now if the sprites were at other `positions` `(count, 2)`."""
        return self.panorama(positions)[self._in_view()]

    def visible(self) -> np.ndarray:
        """Return which sprites have a pixel of their square inside the view, bool `(count,)`."""
        ahead = (self._positions - self._camera) % self.world
        return ((ahead < self.window) | (ahead > self.world - self.sprite)).all(1)

    def panorama(self, positions: np.ndarray | None = None) -> np.ndarray:
        """Return the whole torus, uint8 `(world, world, 1)`, as it is now or with its sprites at other `positions`."""
        places = self._positions if positions is None else np.asarray(positions)
        rows, columns = ((places[:, i, None] + np.arange(self.sprite)) % self.world for i in (0, 1))
        total = np.zeros((self.world, self.world), np.int64)
        np.add.at(total, (rows[:, :, None], columns[:, None, :]), self.bank[self._images])
        return np.minimum(total, 255).astype(np.uint8)[..., None]

    def coverage(self) -> np.ndarray:
        """Return which pixels of the torus have been in view since the reset, bool `(world, world)`."""
        return self._seen.copy()

    def render(self) -> Any:
        """Return the view enlarged, uint8 `(h, w, 3)`; with `overview` the torus stands to its right."""
        if self.render_mode != "rgb_array":
            return None
        torus = np.repeat(self.panorama(), 3, axis=-1)
        side = self.window * max(1, round(PICTURE / self.window))
        view = _enlarged(torus[self._in_view()], side)
        if not self.overview:
            return view
        rows, columns = self._in_view()
        edge = np.zeros((self.world, self.world), bool)
        edge[rows[[0, -1]], columns] = edge[rows, columns[:, [0, -1]]] = True
        torus[edge] = torus[edge] // 2 + np.array(FRAME_COLOUR, np.uint8) // 2
        return np.concatenate([view, np.full((side, side // 16, 3), 64, np.uint8), _enlarged(torus, side)], axis=1)

    def get_keys_to_action(self) -> dict[tuple[int, ...], np.ndarray]:
        """Arrows, alone or two together, move the camera by a pixel; with the space bar by two."""
        keys = {}
        for down, right in itertools.product((-1, 0, 1), repeat=2):
            pairs = ((UP, down < 0), (DOWN, down > 0), (LEFT, right < 0), (RIGHT, right > 0))
            held = tuple(key for key, on in pairs if on)
            keys[held] = np.array([down, right]) * min(1, self.move) + self.move
            if held:
                keys[(SPACE, *held)] = np.array([down, right]) * min(2, self.move) + self.move
        return keys

    def _place(self, positions: np.ndarray, velocities: np.ndarray, images: np.ndarray) -> None:
        self._positions, self._velocities, self._images = positions, velocities, images
        self._camera = np.zeros(2, np.int64)
        self._seen = np.zeros((self.world, self.world), bool)

    def _in_view(self) -> tuple[np.ndarray, np.ndarray]:
        """Indices of the rows `(window, 1)` and columns `(1, window)` that the camera sees."""
        span = (self._camera[:, None] + np.arange(self.window)) % self.world
        return span[0][:, None], span[1][None]

    def _observe(self) -> tuple[np.ndarray, dict[str, Any]]:
        view = self._in_view()
        self._seen[view] = True
        return self.panorama()[view], {"covered": bool(self._seen.all())}


@adapter("sprites")
class SpriteSimulator(Simulator):
    """Camera, sprites and what was seen. Subclasses are left alone: they may have more."""

    @classmethod
    def matches(cls, env: gym.Env) -> bool:
        """Whether `env` is exactly a `SpriteWorld`."""
        return type(env) is SpriteWorld

    def capture(self) -> dict[str, Any]:
        """Return what changes, and a fingerprint of what does not."""
        return {"values": {name: getattr(self.env, name) for name in _CHANGING}, "made_of": self._made_of()}

    def apply(self, state: dict[str, Any]) -> None:
        """Set it; raises `ArenaError` when it comes from a world of other sizes or images."""
        if state["made_of"] != self._made_of():
            raise ArenaError("this state belongs to a sprite world of other sizes or images; make that one again.")
        for name, value in state["values"].items():
            setattr(self.env, name, value)

    def quantities(self) -> dict[str, Quantity]:
        """Places of the camera `(2,)` and the sprites `(count, 2)`, their velocities, and which image each shows."""
        env, last = self.env, self.env.world - 1
        return {
            "camera": attribute(env, "_camera", "pixels", low=0, high=last),
            "positions": attribute(env, "_positions", "pixels", low=0, high=last),
            "velocities": attribute(env, "_velocities", "pixels/step", low=-last, high=last),
            "images": attribute(env, "_images", "places in the bank", low=0, high=len(env.bank) - 1),
        }

    def observe(self) -> np.ndarray:
        """Return the view, which does not count as seen."""
        return self.env.view_with(self.env._positions)

    def _made_of(self) -> str:
        env = self.env
        sizes = (env.world, env.window, env.count, env.sprite, env.speed, env.move, env.static)
        return hashlib.sha256(repr(sizes).encode() + env.bank.tobytes()).hexdigest()


def black_mse(env: gym.Env) -> float:
    """Return the expected mean squared error, on the scale 0..1, of forecasting black for every frame of `env`.

    It is exact: a place of the torus lies under each sprite with probability (sprite / world)^2, independently, and
    then shows any pixel of any image equally likely; the distribution of the sum over sprites is a convolution on the
    256 levels, and the clamp is applied to it. Raises `ArenaError` when `env` is no sprite world.
    """
    core = env.unwrapped
    if not isinstance(core, SpriteWorld):
        raise ArenaError(f"{core} is no sprite world; make one with terrella.arenas.make('terrella/Sprites-v0').")
    share = (core.sprite / core.world) ** 2
    one = share * np.bincount(core.bank.ravel(), minlength=256) / core.bank.size
    one[0] += 1 - share
    total = one
    for _ in range(core.count - 1):
        total = np.convolve(total, one)
    return float(total @ np.square(np.minimum(np.arange(total.size), 255) / 255))


@lru_cache(maxsize=8)
def _digits(side: int) -> np.ndarray:
    """The 1797 digits as uint8 `(n, side, side)`."""
    try:
        from sklearn import datasets
    except ModuleNotFoundError as error:
        raise missing_extra("scikit-learn", "arenas", "a sprite world of digits") from error
    digits: Any = datasets.load_digits()
    return _load(digits.images / 16, side)


def _load(images: str | Path | np.ndarray | Sequence[Any], side: int) -> np.ndarray:
    """Read images from a folder or an array, and resize them: uint8 `(n, side, side)`, read-only."""
    if isinstance(images, (str, Path)):
        known = Image.registered_extensions()
        files = sorted(f for f in Path(images).glob("*") if f.suffix.lower() in known)
        if not files:
            raise ArenaError(f"there are no image files in {str(images)!r}; expected a folder of PNG or JPEG files.")
        found = [np.array(Image.open(f).convert("L")) for f in files]
    else:
        array = np.asarray(images)
        kind = array.dtype.kind
        if array.ndim != 3 or array.size == 0 or not (array.dtype == np.uint8 or kind == "f"):
            raise ArenaError(f"images are {array.dtype} {array.shape}; expected uint8 or floats in [0, 1], (n, h, w).")
        if kind == "f" and not ((array >= 0) & (array <= 1)).all():
            raise ArenaError("images hold floats outside of [0, 1]; divide them by their largest value.")
        found = list(np.rint(array * 255).astype(np.uint8) if kind == "f" else array)
    bank = np.stack([_resized(image, side) for image in found])
    bank.setflags(write=False)
    return bank


def _resized(image: np.ndarray, side: int) -> np.ndarray:
    how = Image.Resampling.BOX if min(image.shape) >= side else Image.Resampling.BILINEAR
    return np.array(Image.fromarray(image).resize((side, side), how))


def _split(bank: np.ndarray, held_out: bool) -> np.ndarray:
    """Keep the images that are held out, or those that are not. The split follows the order, not a seed."""
    kept = bank[(np.arange(len(bank)) % HOLD_OUT == HOLD_OUT - 1) == held_out]
    if not len(kept):
        raise ArenaError(f"{len(bank)} images are too few to hold one out; give at least {HOLD_OUT}.")
    return kept


def _enlarged(picture: np.ndarray, side: int) -> np.ndarray:
    return np.array(Image.fromarray(picture).resize((side, side), Image.Resampling.NEAREST))


for _name, _settings in PRESETS.items():
    gym.register(f"terrella/{_name}-v0", f"{__name__}:SpriteWorld", max_episode_steps=1000, kwargs=_settings)
gym.register("terrella/SpritesStill-v0", f"{__name__}:SpriteWorld", max_episode_steps=1000, kwargs={"static": True})
