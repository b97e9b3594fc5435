"""The sixteen procgen games as Gymnasium environments with seeds, true time-outs and exact states.

Upstream starts the next level by itself, draws levels from a stream that is seeded once, and reports the last reward
together with the first frame of the *next* level. Here, instead:

- **Levels.** `reset(seed=s)` seeds the environment, draws one level from it and plays that; `reset()` draws the next.
  `reset(options={"level": n})` plays level n. Equal levels are equal, whatever was played before. A reset puts the
  saved state of the freshly made game back, with its range of levels narrowed to one, and asks for a new episode: the
  time of about ten steps, exact, and no new native environment.
- **Time-outs** are counted here (the native limit is lifted), so they are truncations with their true last frame.
- **Terminations.** The native game draws nothing between the fatal (or winning) move and the next level, so the last
  observation `o_T` repeats `o_{T-1}`: the frame before the move. It never shows the next level. The reward and the
  flag say what happened.

Ref: Cobbe et al., 2020, arXiv 1912.01588. The package is `procgen-mirror`.
"""

from __future__ import annotations

import contextlib
import io
import struct
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from ..errors import ArenaError, did_you_mean, missing_extra
from .base import Simulator, adapter
from .quantity import Quantity

GAMES = (
    "bigfish", "bossfight", "caveflyer", "chaser", "climber", "coinrun", "dodgeball", "fruitbot",
    "heist", "jumper", "leaper", "maze", "miner", "ninja", "plunder", "starpilot",
)  # fmt: skip
# Which games a mode exists for; a wrong pair would end the process in native code.
MODES = {
    "easy": GAMES,
    "hard": GAMES,
    "extreme": ("chaser", "dodgeball", "leaper", "starpilot"),
    "memory": ("caveflyer", "dodgeball", "heist", "jumper", "maze", "miner"),
    "exploration": ("caveflyer", "climber", "coinrun", "heist", "jumper", "leaper", "maze", "ninja"),
}
ACTIONS = (
    ("LEFT", "DOWN"), ("LEFT",), ("LEFT", "UP"), ("DOWN",), (), ("UP",), ("RIGHT", "DOWN"), ("RIGHT",), ("RIGHT", "UP"),
    ("D",), ("A",), ("W",), ("S",), ("Q",), ("E",),
)  # fmt: skip
NOOP = 4
NO_LIMIT = 2**31 - 1
_FRESH_EPISODE = -1  # the native action that ends an episode at once
_KEYS = {"LEFT": "ArrowLeft", "RIGHT": "ArrowRight", "UP": "ArrowUp", "DOWN": "ArrowDown"}
_END = 0xCAFECAFE


class ProcgenEnv(gym.Env[np.ndarray, Any]):
    """One procgen game.

    Observations: uint8 `(64, 64, 3)`. Actions: `Discrete(15)`, key combinations (`action_names`); 4 does nothing.
    Rewards: the game's. Start: see the module's text. End: termination by the game, truncation after `timeout` steps.
    `info`: `level`, and `level_complete` (whether the step just made solved it).

    game: one of `GAMES`. distribution_mode: one of `MODES`, where the game has it. num_levels: 0 for all 2^31 - 1,
    else that many from `start_level` on. The other options are upstream's.

    Raises `MissingExtra` without the package, `ArenaError` for options the game lacks.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 15}  # noqa: RUF012 - Gymnasium's own form
    action_names = tuple("+".join(combo).lower() or "rest" for combo in ACTIONS)
    action_keys = tuple("+".join(sorted(_KEYS.get(k, f"Key{k}") for k in combo)) for combo in ACTIONS)
    noop = NOOP

    def __init__(
        self,
        game: str,
        *,
        distribution_mode: str = "easy",
        num_levels: int = 0,
        start_level: int = 0,
        use_sequential_levels: bool = False,
        center_agent: bool = True,
        use_backgrounds: bool = True,
        use_monochrome_assets: bool = False,
        restrict_themes: bool = False,
        use_generated_assets: bool = False,
        paint_vel_info: bool = False,
        render_mode: str | None = None,
    ) -> None:
        if game not in GAMES:
            raise did_you_mean(game, GAMES, "procgen game")
        if distribution_mode not in MODES:
            raise did_you_mean(distribution_mode, MODES, "procgen distribution mode")
        if game not in MODES[distribution_mode]:
            has = ", ".join(m for m, games in MODES.items() if game in games)
            raise ArenaError(f"procgen's {game} has no {distribution_mode!r} mode. It has: {has}.")
        if num_levels < 0 or start_level < 0 or start_level + num_levels > NO_LIMIT:
            raise ArenaError(
                f"levels {start_level} to {start_level + num_levels} are out of range; expected 0 to {NO_LIMIT}."
            )
        module = _import()
        levels: dict[str, int] = {"num_levels": num_levels, "start_level": start_level}
        self._levels = (start_level, start_level + num_levels) if num_levels else (0, NO_LIMIT)
        if distribution_mode == "exploration":  # one fixed level a game, which upstream refuses to have overridden
            only = int(module.EXPLORATION_LEVEL_SEEDS[game])
            levels, self._levels = {}, (only, only + 1)
        self.game = game
        self.render_mode = render_mode
        self.observation_space = spaces.Box(0, 255, (64, 64, 3), np.uint8)
        self.action_space = spaces.Discrete(len(ACTIONS))
        self._native = module.ProcgenGym3Env(
            num=1,
            env_name=game,
            distribution_mode=distribution_mode,
            use_sequential_levels=use_sequential_levels,
            center_agent=center_agent,
            use_backgrounds=use_backgrounds,
            use_monochrome_assets=use_monochrome_assets,
            restrict_themes=restrict_themes,
            use_generated_assets=use_generated_assets,
            paint_vel_info=paint_vel_info,
            rand_seed=0,
            num_threads=0,  # a thread for one game costs more than the game
            **levels,
        )
        fresh = bytearray(self._native.callmethod("get_state")[0])
        self._layout = _Layout.of(fresh)
        self.timeout = self._layout.timeout(fresh)
        struct.pack_into("<i", fresh, self._layout.timeout_at, NO_LIMIT)
        self._fresh = fresh
        self._action = np.zeros(1, np.int32)
        self._frame = np.zeros((64, 64, 3), np.uint8)
        self._level = self._elapsed = 0
        self._ended = True

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin a level: drawn from the environment's random stream, or `options["level"]`."""
        super().reset(seed=seed)
        level = int(self.np_random.integers(*self._levels))
        if options and "level" in options:
            level = int(options["level"])
            if not 0 <= level < NO_LIMIT:
                raise ArenaError(f"level {level} is out of range; expected 0 to {NO_LIMIT - 1}.")
        struct.pack_into("<ii", self._fresh, self._layout.levels_at, level, level + 1)
        self._native.callmethod("set_state", [bytes(self._fresh)])
        self._act(_FRESH_EPISODE)
        self._frame = self._observe()[1]
        self._level, self._elapsed, self._ended = level, 0, False
        return self._frame.copy(), {"level": level, "level_complete": False}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Press a key combination for one tick; raises `ArenaError` after the end of an episode."""
        if self._ended:
            raise ArenaError("this episode is over; call reset() before the next step.")
        if not 0 <= int(action) < len(ACTIONS):
            raise ArenaError(f"action {action!r} is not among the choices 0..{len(ACTIONS) - 1} of procgen.")
        self._act(int(action))
        reward, frame, terminated = self._observe()
        native = self._native.get_info()[0]
        info = {"level": self._level, "level_complete": bool(native["prev_level_complete"])}
        self._elapsed += 1
        if not terminated:
            self._frame = frame
            if int(native["level_seed"]) != self._level:  # use_sequential_levels: the next level, same episode
                self._level, self._elapsed = int(native["level_seed"]), 0
        truncated = not terminated and self._elapsed >= self.timeout
        self._ended = terminated or truncated
        return self._frame.copy(), reward, terminated, truncated, info

    def render(self) -> Any:
        """Return the current frame, uint8 `(64, 64, 3)`."""
        return self._frame.copy() if self.render_mode == "rgb_array" else None

    def close(self) -> None:
        """Free the native game."""
        self._native.close()

    def _act(self, action: int) -> None:
        self._action[0] = action
        self._native.act(self._action)

    def _observe(self) -> tuple[float, np.ndarray, bool]:
        reward, observation, first = self._native.observe()
        return float(reward[0]), observation["rgb"][0], bool(first[0])


@adapter("procgen")
class ProcgenSimulator(Simulator):
    """The native state as the game writes it, with the step count and flag that `ProcgenEnv` keeps."""

    @classmethod
    def matches(cls, env: gym.Env) -> bool:
        """Whether `env` is a `ProcgenEnv`."""
        return isinstance(env, ProcgenEnv)

    def capture(self) -> dict[str, Any]:
        """Return native state, level, elapsed steps, whether the episode is over, and then its last frame."""
        env = self.env
        return {
            "native": env._native.callmethod("get_state")[0],
            "level": env._level,
            "elapsed": env._elapsed,
            "ended": env._ended,
            "frame": env._frame if env._ended else None,
        }

    def apply(self, state: dict[str, Any]) -> None:
        """Put a captured state back; raises `ArenaError` for one of another game, which would end the process."""
        env = self.env
        _Layout.of(state["native"]).expect(state["native"], env.game)
        env._native.callmethod("set_state", [state["native"]])
        env._level, env._elapsed, env._ended = state["level"], state["elapsed"], state["ended"]
        env._frame = state["frame"] if state["ended"] else env._observe()[1]

    def reseed(self, seed: int) -> None:
        """Replace the level's own random stream (what appears when); the layout stays."""
        native = self.env._native
        data = native.callmethod("get_state")[0]
        native.callmethod("set_state", [_Layout.of(data).with_random(data, seed)])

    def quantities(self) -> dict[str, Quantity]:
        """Level and steps; the rest of a game is in the native state, whose parts have no names."""
        fixed = "a level is drawn as a whole; reset(options={'level': n}) plays another"
        return {
            "level": Quantity("number of the level", lambda: self.env._level, fixed=fixed),
            "elapsed": Quantity("steps", lambda: self.env._elapsed, fixed="the native game counts for itself"),
        }


@dataclass(frozen=True)
class _Layout:
    """Where the fields that we read or change lie in a native state (little-endian int32, strings with a length)."""

    name: str
    levels_at: int
    random_at: int
    random_end: int
    timeout_at: int

    @staticmethod
    def of(data: bytes | bytearray) -> _Layout:
        """Walk the head of a state; raises `ArenaError` when it is cut short."""
        try:
            (length,) = struct.unpack_from("<i", data, 4)
            name = bytes(data[8 : 8 + length]).decode("ascii", "replace")
            levels_at = 8 + length + 4 * 13  # after twelve options and the grid flag
            first = levels_at + 4 * 5  # after the range, two numbers, and the first generator's flag
            second = first + 4 + struct.unpack_from("<i", data, first)[0] + 4
            end = second + 4 + struct.unpack_from("<i", data, second)[0]
            layout = _Layout(name, levels_at, second, end, end + 4 * 4)
            layout.timeout(data)
            return layout
        except struct.error as error:
            raise ArenaError(f"a procgen state of {len(data)} bytes is cut short.") from error

    def timeout(self, data: bytes | bytearray) -> int:
        return struct.unpack_from("<i", data, self.timeout_at)[0]

    def expect(self, data: bytes, game: str) -> None:
        """Check what the native reader would otherwise answer by ending the process."""
        if self.name != game or struct.unpack_from("<I", data, len(data) - 4)[0] != _END or data[:4] != bytes(4):
            raise ArenaError(f"this is a procgen state of {self.name!r}; expected a whole one of {game!r}.")

    def with_random(self, data: bytes, seed: int) -> bytes:
        """Return the state with its second generator, a 32-bit Mersenne Twister in text form, seeded anew."""
        old = data[self.random_at + 4 : self.random_end].split()
        key = np.random.RandomState(np.uint32(seed % 2**32)).get_state(legacy=False)["state"]["key"]
        position = [str(len(key))] if len(old) > len(key) else []  # some C++ libraries write the position, some rotate
        text = " ".join([*map(str, key), *position]).encode()
        return data[: self.random_at] + struct.pack("<i", len(text)) + text + data[self.random_end :]


def _import() -> Any:
    """Import the module; the predecessor of Gymnasium, which it imports, prints a notice that is of no concern here."""
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            import procgen.env
    except ModuleNotFoundError as error:
        raise missing_extra("procgen-mirror", "arenas", "the procgen arena") from error
    return procgen.env
