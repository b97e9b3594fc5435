"""Recording from a `gymnasium.vector.VectorEnv`, whatever its autoreset mode.

The three modes differ in which observation a finished environment returns, and a frame too many or too few here
would shift every action after it:

| mode | `step` returns at the end | and at the step after it |
|---|---|---|
| NEXT_STEP | the episode's last frame | the next episode's first frame; the action is ignored: no transition |
| SAME_STEP | the next episode's first frame; the last one is in `infos["final_obs"]` | an ordinary transition |
| DISABLED | the episode's last frame | we reset it before |

In SAME_STEP the environment resets before anybody can look: one that draws every frame into the same array spoils
`final_obs` itself, and must copy.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv
from gymnasium.vector.utils import concatenate, create_empty_array, iterate

from .. import actions, arenas
from ..config import to_json
from ..errors import ArenaError, TerrellaError
from ..spec import EnvSpec, WorldSpec
from .draft import Draft
from .policies import make_policy
from .rollout import Goal, Plan, episode_rng, episode_seed
from .writer import Writer

# What gymnasium.make_vec adds to the arguments of one environment.
_VECTOR_KWARGS = ("num_envs", "vectorization_mode", "vector_kwargs", "render_mode")


def describe_vector(envs: VectorEnv) -> WorldSpec:
    """Return the `WorldSpec` of one of the environments in `envs`.

    If making its id again gives the same spaces, that is how it is described; otherwise its `env` has no id.
    """
    if isinstance(envs, SyncVectorEnv):
        try:
            return arenas.describe(envs.envs[0])
        except ArenaError:
            pass  # not made by arenas.make; described from its spaces below
    bare = WorldSpec(arenas.streams(envs.single_observation_space), actions.action_spec(envs.single_action_space))
    if envs.spec is not None:
        kwargs = {k: v for k, v in envs.spec.kwargs.items() if k not in _VECTOR_KWARGS}
        try:
            to_json(kwargs)
            env = arenas.make(EnvSpec(envs.spec.id, kwargs, size=0))
        except (TerrellaError, gym.error.Error):
            return bare
        found = arenas.describe(env)
        env.close()
        if bare.same_interface(found):
            return found
    return bare


class VectorRecorder:
    """Records from all environments of `envs` at once; raises `ArenaError` when it does not say how it resets.

    Seeds are known where this class gives them: in Gymnasium's `SyncVectorEnv` and `AsyncVectorEnv` to each first
    episode, and with autoreset disabled to every one. States are not saved.
    """

    def __init__(self, envs: VectorEnv, spec: WorldSpec, plan: Plan, writer: Writer) -> None:
        try:
            self._mode = AutoresetMode(envs.metadata["autoreset_mode"])
        except (KeyError, ValueError):
            raise ArenaError(
                f"{envs} does not say when it resets. Set metadata['autoreset_mode'] to one of gymnasium.vector."
                "AutoresetMode."
            ) from None
        core = envs.unwrapped
        if isinstance(core, AsyncVectorEnv) and core.shared_memory and len(spec.modelled) < len(spec.streams):
            raise ArenaError(
                "an AsyncVectorEnv with shared memory shows the same text for ever. Make it with shared_memory=False."
            )
        self._envs, self._spec, self._plan, self._writer = envs, spec, plan, writer
        self._policies = [make_policy(plan.policy) for _ in range(envs.num_envs)]
        within = core.envs if isinstance(core, SyncVectorEnv) else [None] * envs.num_envs
        for policy, env in zip(self._policies, within):
            policy.prepare(spec, env)
        self._next = writer.episodes
        self._drafts: list[Draft] = []

    def run(self, goal: Goal, on_step: Callable[[], None]) -> None:
        """Record until the goal is reached; with a goal in transitions, the episodes in flight are kept, truncated."""
        envs, count = self._envs, self._envs.num_envs
        seeds: list[int | None] = [episode_seed(self._plan.seed, self._next + i) for i in range(count)]
        if isinstance(envs.unwrapped, (SyncVectorEnv, AsyncVectorEnv)):
            batch, _ = envs.reset(seed=seeds)  # type: ignore[arg-type] - the base class takes one seed
        else:
            batch, _ = envs.reset(seed=seeds[0])
            seeds = [None] * count  # what each one does with it is its own affair
        observations = self._split(batch)
        self._drafts = [self._begin(i, observations[i], seeds[i]) for i in range(count)]
        resetting = np.zeros(count, bool)
        chosen: list[Any] = [None] * count
        rows: list[np.ndarray] = [np.empty(0)] * count
        left = goal.steps_left(self._writer)
        while True:
            for i in np.flatnonzero(~resetting):
                chosen[i] = self._policies[i].act(observations[i])
                rows[i] = actions.encode(self._spec.action, chosen[i])
            batch, rewards, terminated, truncated, infos = envs.step(self._join(chosen))
            observations = self._split(batch)
            to_reset = np.zeros(count, bool)
            for i in range(count):
                if resetting[i]:
                    self._drafts[i], resetting[i] = self._begin(i, observations[i], None), False
                    continue
                ended = bool(terminated[i] or truncated[i])
                same_step = ended and self._mode is AutoresetMode.SAME_STEP
                last = self._final(infos, i) if same_step else observations[i]
                draft = self._drafts[i]
                draft.step(rows[i], self._streams(last), float(rewards[i]), bool(terminated[i]), bool(truncated[i]))
                on_step()
                if left is not None:
                    left -= 1
                limit = self._plan.max_episode_steps
                if not ended and limit is not None and len(draft) >= limit:
                    # One of several cannot be reset from outside: the rest is recorded as another episode.
                    draft.truncate()
                    self._writer.commit(draft.pack())
                    self._drafts[i] = self._begin(i, observations[i], None)
                elif ended:
                    self._writer.commit(draft.pack())
                    resetting[i] = self._mode is AutoresetMode.NEXT_STEP
                    to_reset[i] = self._mode is AutoresetMode.DISABLED
                    if same_step:
                        self._drafts[i] = self._begin(i, observations[i], None)
                if left == 0:
                    self._keep_partial(resetting | to_reset)
                    return
                if goal.reached(self._writer):
                    return
            if to_reset.any():
                self._reset(to_reset, observations)

    def _begin(self, i: int, observation: Any, seed: int | None) -> Draft:
        self._policies[i].begin(self._envs.single_action_space, episode_rng(self._plan.seed, self._next))
        self._next += 1
        return self._writer.draft(self._streams(observation), seed)

    def _reset(self, mask: np.ndarray, observations: list[Any]) -> None:
        seeds: list[int | None] = [None] * len(mask)
        for nth, i in enumerate(np.flatnonzero(mask)):
            seeds[i] = episode_seed(self._plan.seed, self._next + nth)
        if not isinstance(self._envs.unwrapped, (SyncVectorEnv, AsyncVectorEnv)):
            seeds = [None] * len(mask)
        given: Any = seeds if any(s is not None for s in seeds) else None
        batch, _ = self._envs.reset(seed=given, options={"reset_mask": mask})
        fresh = self._split(batch)
        for i in np.flatnonzero(mask):
            observations[i] = fresh[i]
            self._drafts[i] = self._begin(int(i), fresh[i], seeds[i])

    def _keep_partial(self, ended: np.ndarray) -> None:
        """Store the episodes in flight, as cut; those that `ended` are stored already."""
        for draft, over in zip(self._drafts, ended):
            if not over and len(draft):
                draft.truncate()
                self._writer.commit(draft.pack())

    def _streams(self, observation: Any) -> dict[str, Any]:
        return arenas.to_streams(self._envs.single_observation_space, observation)

    def _split(self, batch: Any) -> list[Any]:
        return list(iterate(self._envs.observation_space, batch))

    def _join(self, chosen: list[Any]) -> Any:
        space = self._envs.single_action_space
        return concatenate(space, chosen, create_empty_array(space, len(chosen)))

    def _final(self, infos: dict[str, Any], i: int) -> Any:
        final = infos.get("final_obs")
        if final is None:
            raise ArenaError(
                f"{self._envs} resets in the same step, but gives no infos['final_obs']: the last frame is lost. "
                "Use another autoreset mode."
            )
        if isinstance(final, dict):  # batched rather than one object an environment
            return {key: value[i] for key, value in final.items()}
        return final[i]
