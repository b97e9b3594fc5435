"""ViZDoom: Doom in the first person, forked by playing an episode again from its seed.

The engine's own saved games are no exact forks: to write one it lets tics pass, which changes the game that is saved.
The game is a function of its seed and its commands, though, and plays thousands of tics a second as long as nobody
looks. So a state is the seed and the commands since the reset, and restoring it takes time in proportion to the steps.

Chance cannot be drawn anew within an episode: the engine reads a new seed only when the next one begins.

Ref: Kempka et al., 2016, arXiv 1605.02097. The package brings the free game data of Freedoom.
"""

from __future__ import annotations

import atexit
import shutil
from functools import lru_cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import gymnasium as gym
import numpy as np

from ..errors import ArenaError
from .base import Simulator, adapter, comes_from
from .quantity import Quantity

# Quantity -> (game variables, unit)
_VARIABLES: dict[str, tuple[tuple[str, ...], str]] = {
    "position": (("POSITION_X", "POSITION_Y", "POSITION_Z"), "map units"),
    "velocity": (("VELOCITY_X", "VELOCITY_Y", "VELOCITY_Z"), "map units/tic"),
    "angle": (("ANGLE",), "degrees"),
    "health": (("HEALTH",), "%"),
    "armor": (("ARMOR",), "%"),
    "ammunition": (("SELECTED_WEAPON_AMMO",), "rounds"),
    "kills": (("KILLCOUNT",), "kills"),
}
_FIXED = "the engine takes its state only from its own commands, so reach it by actions from another seed"


def settled(env: gym.Env) -> gym.Env:
    """Return the environment with a record of its commands, and with the places of objects to be read."""
    core: Any = env.unwrapped
    core.game.set_objects_info_enabled(True)
    core.game.set_doom_config_path(str(Path(_folder()) / "doom.ini"))  # else written where the program was started
    return Recorded(env)


@lru_cache(1)
def _folder() -> str:
    """A folder of this process for what the engine writes; it goes when the process ends."""
    folder = mkdtemp(prefix="terrella-doom-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


class Recorded(gym.Wrapper):
    """Note the seed of each episode and every command given in it."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode."""
        result = self.env.reset(seed=seed, options=options)
        core: Any = self.env.unwrapped
        core._episode = int(core.game.get_seed()), []
        return result

    def step(self, action: Any) -> Any:
        """Step."""
        core: Any = self.env.unwrapped
        result = self.env.step(action)
        core._episode[1].append(_command(core, action))
        return result


def _command(core: Any, action: Any) -> list[float]:
    """The buttons and movements that the environment makes of an action."""
    return core._VizdoomEnv__build_env_action(action).tolist()


@adapter("vizdoom")
class VizdoomSimulator(Simulator):
    """The seed of the episode and its commands, a list of numbers each."""

    @classmethod
    def matches(cls, env: gym.Env) -> bool:
        """Whether `env` is ViZDoom's environment."""
        return comes_from(env, "vizdoom")

    def capture(self) -> dict[str, Any]:
        """Return seed and commands."""
        if not hasattr(self.env, "_episode"):
            raise ArenaError("this ViZDoom was not made by its id, so its commands were not noted.")
        seed, commands = self.env._episode
        return {"seed": seed, "commands": commands, "skip": self.env.frame_skip}

    def apply(self, state: dict[str, Any]) -> None:
        """Play the episode again; raises `ArenaError` for one played with another frame skip."""
        env, game = self.env, self.env.game
        if state["skip"] != env.frame_skip:
            raise ArenaError(f"this state was played with frame_skip {state['skip']}; here it is {env.frame_skip}.")
        game.set_seed(state["seed"])
        if game.is_running():
            game.new_episode()
        else:
            game.init()
        last = len(state["commands"]) - 1
        for i, command in enumerate(state["commands"]):
            game.set_action(command)
            game.advance_action(env.frame_skip, i == last)
        env.state = game.get_state()
        env._episode = state["seed"], list(state["commands"])

    def reseed(self, seed: int) -> None:
        """Refuse: the future's chance follows from the episode's seed, which is past."""
        del seed
        raise ArenaError(
            "ViZDoom draws all chance of an episode from the seed of its reset, so a fork cannot be reseeded. For "
            "other chance reset with another seed, or fork terrella/Crafter-v0 or a procgen game."
        )

    def quantities(self) -> dict[str, Quantity]:
        """What the game tells of the player, the tics since the start, and the places of all objects `(n, 3)`."""
        import vizdoom

        game = self.env.game

        def read(names: tuple[str, ...]) -> Any:
            found = [float(game.get_game_variable(getattr(vizdoom.GameVariable, name))) for name in names]
            return found if len(found) > 1 else found[0]

        table = {
            name: Quantity(unit, lambda names=names: read(names), fixed=_FIXED)
            for name, (names, unit) in _VARIABLES.items()
        }
        table["tics"] = Quantity("1/35 s", game.get_episode_time, fixed=_FIXED)
        table["objects"] = Quantity("map units", self._objects, fixed=_FIXED)
        return table

    def _objects(self) -> np.ndarray:
        found = self.env.state.objects if self.env.state is not None else None
        places = [(o.position_x, o.position_y, o.position_z) for o in found or ()]
        return np.array(places, np.float64).reshape(-1, 3)
