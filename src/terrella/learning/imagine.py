"""Learning in imagination: a policy gets all its experience from a world, many episodes at a time.

    policy = terrella.learning.learn(world, starts=data)   # no step in the true environment
    terrella.learning.returns(policy).mean()               # what it is worth there

Ref: learning behaviours inside a learned model: Sutton, *Dyna*, SIGART Bulletin 2 (1991); Ha and Schmidhuber, *World
Models*, arXiv 1803.10122; short imagined episodes from recorded states: Janner et al., arXiv 1906.08253. The learners
are those of Stable-Baselines3 (Raffin et al., JMLR 22, 2021).
"""

from __future__ import annotations

import inspect
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from gymnasium.vector import VectorEnv

from ..data import Dataset
from ..data.episode import Clips
from ..errors import ConfigError, SpecError, did_you_mean
from ..spec import WorldSpec
from ..vector_env import WorldVectorEnv
from ..world import World
from .policy import LearnedPolicy, NetworkConfig, network_class, network_settings
from .support import Support

# Long batches and few passes over them: imagined experience is cheap, and many sessions a step make it cheaper.
SETTINGS: dict[str, dict[str, Any]] = {
    "ppo": {"n_steps": 32, "batch_size": 256, "n_epochs": 10, "learning_rate": 1e-3, "gamma": 0.98, "gae_lambda": 0.9},
    "a2c": {"n_steps": 8, "gamma": 0.98, "gae_lambda": 0.9},
}
RESERVED = ("policy", "env", "policy_kwargs", "use_sde", "seed", "device", "_init_setup_model")


def learn(
    world: World | str | Path | VectorEnv,
    *,
    algorithm: Literal["ppo", "a2c"] = "ppo",
    steps: int = 200_000,
    seed: int = 0,
    num_envs: int = 64,
    starts: Clips | Dataset | str | Path | None = None,
    max_episode_steps: int | None = 50,
    within: Support | Dataset | None = None,
    engine: Mapping[str, Any] | None = None,
    network: NetworkConfig | None = None,
    policy: LearnedPolicy | None = None,
    settings: Mapping[str, Any] | None = None,
    device: torch.device | str | None = None,
) -> LearnedPolicy:
    """Learn a policy by reinforcement inside a world.

    world: a `World`, a folder, a name in the gallery, or a vector environment with attribute `spec` or made by
    `true_envs`, which brings its own episodes. algorithm: "ppo" (Schulman et al., arXiv 1707.06347) or "a2c" (Mnih et
    al., arXiv 1602.01783). steps: imagined transitions, rounded up to whole batches. num_envs: episodes side by side.
    starts: where they begin (see `WorldEnv`); a dataset is the best choice, since the few beginnings kept in a world
    are soon known by heart. max_episode_steps: where they are cut; the critic stands for what would follow, and errors
    of the world do not add up for longer. within: recordings of vectors, near which a world is believed; an episode
    that leaves them ends at a price (see `Support`). engine: settings of the `Engine`, such as `{"steps": 1}`.
    network: of a new policy; policy: one to go on from instead, which stays as it is. settings: of the learner, by the
    names that Stable-Baselines3 has for them, over `SETTINGS`. device: of world and policy.

    Equal arguments give equal policies on one machine. The caller's random streams go on as they were.

    Returns the policy; `record["curve"]` has `[transitions, mean return of the last episodes]` after each batch.

    Raises what `WorldVectorEnv` and `LearnedPolicy` raise, `UnknownName` for an algorithm or a setting there is not,
    `ConfigError` for arguments that exclude one another, and `SpecError` for a policy of another environment.
    """
    if algorithm not in SETTINGS:
        raise did_you_mean(algorithm, SETTINGS, "algorithm")
    if steps < 1:
        raise ConfigError(f"steps is {steps}; expected at least 1 transition.")
    if policy is not None and network is not None:
        raise ConfigError("network is of a new policy, and policy one to go on from; give one of them.")
    ready = isinstance(world, VectorEnv)
    if ready and not (starts is None and engine is None and within is None):
        raise ConfigError("starts, within and engine are of a world; a vector environment brings its own.")
    envs = world if ready else None
    if not ready:
        near = Support(within) if isinstance(within, Dataset) else within
        gamma = (settings or {}).get("gamma", SETTINGS[algorithm]["gamma"])
        limit: dict[str, Any] = {"halt": near, "halt_reward": near.price(gamma) if near is not None else 0.0}
        limit |= {"max_episode_steps": max_episode_steps, "autoreset_mode": "SameStep"}
        envs = WorldVectorEnv(world, num_envs, starts=starts, device=device, engine=engine, **limit)  # pyright: ignore
    spec = _spec(envs)
    if policy is not None and not policy.spec.same_interface(spec):
        raise SpecError("this policy was made for other observations or actions; learn a new one.")
    config = policy.config if policy is not None else network or NetworkConfig()
    kind = network_class(spec)
    import stable_baselines3
    from stable_baselines3.common.callbacks import BaseCallback

    from .sb3 import VecEnvAdapter

    learner = {"ppo": stable_baselines3.PPO, "a2c": stable_baselines3.A2C}[algorithm]
    chosen = {**SETTINGS[algorithm], **_checked(settings, learner)}
    curve: list[list[float]] = []

    class Curve(BaseCallback):
        def _on_step(self) -> bool:
            return True

        def _on_rollout_end(self) -> None:
            last = [episode["r"] for episode in self.model.ep_info_buffer or ()]
            if last:
                curve.append([self.model.num_timesteps, round(float(np.mean(last)), 4)])

    with _own_chance():
        model = learner(
            kind,
            VecEnvAdapter(envs),  # pyright: ignore[reportArgumentType]
            seed=seed,
            device="cpu" if device is None else device,
            use_sde=config.state_noise,
            policy_kwargs={k: v for k, v in network_settings(config).items() if k != "use_sde"},
            **chosen,
        )
        if policy is not None:
            model.policy.load_state_dict(policy.network.state_dict())
        model.learn(steps, callback=Curve())
        record = {
            "algorithm": algorithm,
            "steps": model.num_timesteps,
            "seed": seed,
            "settings": {k: v for k, v in chosen.items() if isinstance(v, (bool, int, float, str, type(None)))},
            "curve": curve,
        }
        learned = LearnedPolicy(spec, config, record=record)
        learned.network.load_state_dict({k: v.cpu() for k, v in model.policy.state_dict().items()})
    learned.network.eval()
    return learned


def beginnings(dataset: Dataset, count: int = 4096, *, context: int = 0, seed: int = 0) -> Clips:
    """Draw places in a dataset's training episodes where imagined ones may begin, for `starts`.

    context: transitions before, which a world may need where one frame does not tell all; each costs one frame at every
    reset. A place never is an episode's last frame. Raises what `Dataset.sample` raises.
    """
    clips = dataset.sample(count, context + 1, np.random.default_rng(seed))
    kept = {name: clips.observations[name][:, : context + 1] for name in dataset.spec.modelled}
    return Clips(kept, clips.actions[:, :context], clips.rewards[:, :context], clips.terminated[:, :context])


def _spec(envs: Any) -> WorldSpec:
    """What observations and actions of a vector environment look like."""
    if isinstance(envs, WorldVectorEnv):
        return envs.stage.spec
    first = getattr(envs, "envs", [None])[0]
    if first is None or not first.has_wrapper_attr("world_spec"):
        raise SpecError(
            "this vector environment does not say what a world of it would see; make it with "
            "terrella.learning.true_envs, or give a world."
        )
    return first.get_wrapper_attr("world_spec")


def _checked(settings: Mapping[str, Any] | None, learner: Any) -> dict[str, Any]:
    """Refuse settings that the learner does not have, or that are arguments here."""
    known = [name for name in inspect.signature(learner).parameters if name not in RESERVED]
    for name in settings or {}:
        if name not in known:
            raise did_you_mean(str(name), known, "setting of the learner")
    return dict(settings or {})


@contextmanager
def _own_chance() -> Iterator[None]:
    """Keep the random streams of the process, which Stable-Baselines3 seeds, as they were."""
    before = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng():
            yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
