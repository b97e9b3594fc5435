"""A policy that was learned: what to do, given what is seen. Saved as weights and JSON, and loaded without pickle.

    policy.json           format, network, the spec of what it sees and does, how it was learned
    weights.safetensors   every tensor

The network is an actor-critic of Stable-Baselines3, so its learners go on from it, and `LearnedPolicy.network` is at
home wherever theirs is.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from .. import actions
from ..arenas import to_streams
from ..config import from_json, to_json
from ..data import Policy
from ..entry import observation_space, present
from ..errors import ActionError, ConfigError, SpecError, StateError, WorldError, missing_extra
from ..files import atomic
from ..spec import WorldSpec

FORMAT = 1
SMALLEST = 36  # pixels a side that the convolutions take


@dataclass(frozen=True)
class NetworkConfig:
    """The actor and the critic: `hidden` units a layer of each, after convolutions where an image is seen.

    state_noise: continuous actions explore by noise that is a function of the state and stays for a while (generalised
    state-dependent exploration, Raffin et al., arXiv 2005.05719), rather than by fresh noise at each step.
    """

    hidden: tuple[int, ...] = (64, 64)
    activation: Literal["tanh", "relu"] = "tanh"
    state_noise: bool = False

    def __post_init__(self) -> None:
        if any(units < 1 for units in self.hidden):
            raise ConfigError(f"hidden is {self.hidden}; every layer has at least 1 unit.")


class LearnedPolicy(Policy):
    """A policy for the environment, or the worlds, of one spec.

    spec: what it sees and does. config: its network. deterministic: whether `act` takes the likeliest action, or draws
    one. record: how it was learned, JSON values.

    Raises `MissingExtra` without Stable-Baselines3, `SpecError` for images too small for its convolutions, and
    `ActionError` for an action space that it has no distribution for.
    """

    def __init__(
        self,
        spec: WorldSpec,
        config: NetworkConfig | None = None,
        *,
        deterministic: bool = True,
        record: dict[str, Any] | None = None,
    ):
        self.spec, self.config, self.deterministic = spec, config or NetworkConfig(), deterministic
        self.record: dict[str, Any] = record or {}
        kind, seen, does = network_class(spec), observation_space(spec), actions.action_space(spec.action)
        from stable_baselines3.common.preprocessing import is_image_space
        from stable_baselines3.common.vec_env import VecTransposeImage

        parts = seen.spaces.values() if isinstance(seen, spaces.Dict) else [seen]
        if any(is_image_space(part) for part in parts):  # Stable-Baselines3 moves the channels first
            seen = VecTransposeImage.transpose_space(seen)  # pyright: ignore[reportArgumentType]
        self.network = kind(seen, does, lambda _: 3e-4, **network_settings(self.config))
        self._env: gym.Env | None = None
        self._rng: np.random.Generator | None = None

    def predict(
        self,
        observations: Any,
        *,
        deterministic: bool | None = None,
        rng: np.random.Generator | None = None,
    ) -> np.ndarray:
        """Choose an action for each of B observations in the world's form; native actions, a batch of them.

        rng: whence chance comes, where actions are drawn; the caller's own random streams stay as they are.
        """
        certain = self.deterministic if deterministic is None else deterministic
        with torch.random.fork_rng(devices=[], enabled=not certain):
            if not certain and rng is not None:
                torch.manual_seed(int(rng.integers(1 << 31)))
                if self.config.state_noise:
                    self.network.reset_noise(len(next(iter(_leaves(observations)))))
            return self.network.predict(observations, deterministic=certain)[0]

    # as a policy for recording

    def prepare(self, spec: WorldSpec, env: gym.Env | None = None) -> None:
        """Check that the environment is one that the policy knows.

        Raises `SpecError` where it is not, `ActionError` where it is out of reach (in a vector of processes).
        """
        if env is None:
            raise ActionError("a learned policy needs the environment beside it; record without a vector of processes.")
        if not self.spec.same_interface(spec):
            raise SpecError(
                f"this environment has streams {spec.streams} and actions {spec.action}; the policy was made for "
                f"{self.spec.streams} and {self.spec.action}."
            )
        self._env = env

    def begin(self, space: gym.Space, rng: np.random.Generator) -> None:
        """Take in the episode's chance."""
        del space
        self._rng = rng

    def act(self, observation: Any) -> Any:
        """Return the action for one native observation; raises `StateError` before `prepare` and `begin`."""
        if self._env is None or self._rng is None:
            raise StateError("call prepare(spec, env) and begin(space, rng) first, as recording does.")
        seen = present(self.spec, to_streams(self._env, observation))
        batch = {k: v[None] for k, v in seen.items()} if isinstance(seen, Mapping) else seen[None]
        return self.predict(batch, rng=self._rng)[0]

    # files

    def save(self, path: str | Path) -> Path:
        """Write the policy into the folder `path`; each file appears whole or not at all."""
        path = Path(path)
        path.mkdir(parents=True, exist_ok=True)
        with atomic(path / "weights.safetensors") as partial:
            save_file({name: tensor.contiguous() for name, tensor in _tensors(self.network).items()}, partial)
        tree = {
            "format": FORMAT,
            "spec": to_json(self.spec),
            "network": to_json(self.config),
            "deterministic": self.deterministic,
            "record": self.record,
        }
        with atomic(path / "policy.json") as partial:
            partial.write_text(json.dumps(tree, indent=1) + "\n")
        return path

    @classmethod
    def load(cls, path: str | Path) -> LearnedPolicy:
        """Open a policy from its folder.

        Raises `WorldError` for a folder that holds none, or one of another format or shape, and `ConfigError` for
        settings that a network or a spec does not have.
        """
        path = Path(path)
        try:
            tree = json.loads((path / "policy.json").read_text())
            if tree["format"] != FORMAT:
                raise WorldError(f"{path} has format {tree['format']}; this version reads {FORMAT}. Learn it again.")
            spec, config = from_json(WorldSpec, tree["spec"]), from_json(NetworkConfig, tree["network"])
            policy = cls(spec, config, deterministic=bool(tree["deterministic"]), record=tree["record"])
            kept, own = load_file(path / "weights.safetensors"), _tensors(policy.network)
            if {k: v.shape for k, v in kept.items()} != {k: v.shape for k, v in own.items()}:
                raise WorldError(f"the weights in {path} are not those of the network that its policy.json describes.")
            for name, tensor in own.items():
                tensor.copy_(kept[name])
        except (KeyError, TypeError, ValueError, RuntimeError, OSError, SafetensorError) as error:
            raise WorldError(f"{path} cannot be read as a policy: {error}") from error
        policy.network.eval()
        return policy


def network_class(spec: WorldSpec) -> Any:
    """Choose the class of Stable-Baselines3 for what is seen; raises as `LearnedPolicy` does."""
    try:
        from stable_baselines3.common import policies
    except ImportError as error:
        raise missing_extra("stable-baselines3", "rl", "learning") from error
    does = actions.action_space(spec.action)
    flat = isinstance(does, (spaces.Box, spaces.Discrete)) or (
        isinstance(does, (spaces.MultiDiscrete, spaces.MultiBinary)) and len(does.shape) == 1
    )
    if not flat or (isinstance(does, spaces.Discrete) and does.start != 0):
        raise ActionError(
            f"actions are {actions.describe(spec.action)}; policies here act by numbers or by choices counted from 0. "
            "Turn them into one of these in a gymnasium.ActionWrapper before recording."
        )
    images = {name: s.shape for name, s in spec.modelled.items() if s.kind == "image"}
    for name, shape in images.items():
        if min(shape[:2]) < SMALLEST:
            raise SpecError(
                f"image {name!r} has {shape[0]}x{shape[1]} pixels, and a policy's convolutions take {SMALLEST} a side; "
                "record a larger picture with pixels=True."
            )
    seen = observation_space(spec)
    if isinstance(seen, spaces.Dict):
        return policies.MultiInputActorCriticPolicy
    return policies.ActorCriticCnnPolicy if images else policies.ActorCriticPolicy


def network_settings(config: NetworkConfig) -> dict[str, Any]:
    """What Stable-Baselines3 calls the settings of a network."""
    activation = {"tanh": torch.nn.Tanh, "relu": torch.nn.ReLU}[config.activation]
    return {"net_arch": list(config.hidden), "activation_fn": activation, "use_sde": config.state_noise}


def _tensors(network: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Every weight once: actor and critic share what looks at images, under three names."""
    return {name: p.detach() for name, p in (*network.named_parameters(), *network.named_buffers())}


def _leaves(observations: Any) -> Any:
    return observations.values() if isinstance(observations, Mapping) else [observations]
