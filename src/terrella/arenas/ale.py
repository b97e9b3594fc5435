"""Atari games of the Arcade Learning Environment: exact saved states, in any instance.

Two things make them exact. The previous action, which sticky actions repeat, is not in the emulator's state: `make`
therefore sets `repeat_action_probability=0`, and `exact` is false otherwise (repeat actions in the policy instead).
And the screen is not in it either: lines that a game leaves undrawn keep what earlier frames put there (visible in
Qbert and Tetris), so a restore runs two idle frames from the saved state to redraw it, then restores again.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym

from ..errors import ArenaError
from .base import Simulator, adapter, comes_from
from .quantity import Quantity

_IDLE = 0


@adapter("ale")
class AleSimulator(Simulator):
    """The emulator's state with its random generator, as ALE serialises it."""

    @classmethod
    def matches(cls, env: gym.Env) -> bool:
        """Whether `env` is ALE's single environment."""
        return comes_from(env, "ale_py")

    @property
    def exact(self) -> bool:
        """True without sticky actions and sound."""
        return self.env.ale.getFloat("repeat_action_probability") == 0.0 and not self.env.sound_obs

    def capture(self) -> dict[str, Any]:
        """Return the serialised emulator."""
        return {"emulator": self.env.ale.cloneState(include_rng=True).serialize()}

    def apply(self, state: dict[str, Any]) -> None:
        """Restore the emulator, redraw its screen, restore again."""
        from ale_py import ALEState

        ale = self.env.ale
        try:
            emulator = ALEState(state["emulator"])
        except (RuntimeError, ValueError, TypeError) as error:
            raise ArenaError(f"ALE cannot read this state ({error}); was it saved by another version?") from error
        ale.restoreState(emulator)
        for _ in range(2):
            ale.act(_IDLE)
        ale.restoreState(emulator)

    def quantities(self) -> dict[str, Quantity]:
        """The console's 128 bytes of memory, and the lives left."""
        drawn = "the screen is drawn from the memory by the program itself, while it runs, and would show the old state"
        return {
            "memory": Quantity("bytes", self.env.ale.getRAM, fixed=drawn),
            "lives": Quantity("lives", self.env.ale.lives, fixed=drawn),
        }
