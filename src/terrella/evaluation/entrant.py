"""Who is measured: anything with four methods, be it a world of ours or a model of somebody else's.

`start` and `rollout` are those of an `Engine`; `describe` names the entrant and whatever its answers depend on; `close`
lets go of what it holds. A model of somebody else's goes through `Checked`, which turns its mistakes into
`EntrantError`, so that what it could not answer counts as wrong instead of ending the measurement.
"""

from __future__ import annotations

import hashlib
import importlib
import json
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np

from ..engine import Engine, Frame, engine_settings
from ..errors import EntrantError
from ..spec import WorldSpec
from ..world import World


class Entrant(Protocol):
    """Four methods; everything is a numpy array, B sessions at once, c actions of context, W numbers an action."""

    def describe(self) -> dict[str, Any]:
        """Return JSON values: `name`, and whatever results depend on (version, digest of weights, settings)."""
        ...

    def start(self, observations: dict[str, np.ndarray], actions: Any = None, seeds: Any = 0) -> Any:
        """Begin sessions from contexts: stream -> `(B, c+1, ...)`, float32 `(B, c, W)`, B integers.

        Whatever is random must follow from a session's seed: sessions with equal seeds and contexts are branches of one
        moment, and may differ by their actions alone. Returns a state, which only `rollout` has to understand.
        """
        ...

    def rollout(self, state: Any, actions: Any) -> tuple[Any, Frame]:
        """Go on under float32 `(B, T, W)`: the next state, and a `Frame` with streams `(B, T, ...)`.

        Images are uint8, vectors float32; reward and terminated are float32 `(B, T)`, zeros if the model has none.
        """
        ...

    def close(self) -> None:
        """Let go of what is held."""
        ...


class WorldEntrant:
    """A world behind an engine. Raises `ConfigError` and `UnknownName` for settings that the engine refuses."""

    def __init__(self, world: World, settings: Mapping[str, Any] | None = None, name: str | None = None) -> None:
        self.world, self.settings = world, engine_settings(settings)
        self.engine, self.name = Engine(world, **self.settings), name or world.name

    def describe(self) -> dict[str, Any]:
        """Name, digest of all weights, and how it is stepped."""
        return {
            "name": self.name,
            "kind": "world",
            "digest": digest(self.world),
            "steps": self.engine.steps,
            "engine": {name: str(value) for name, value in sorted(self.settings.items())},
        }

    def start(self, observations: dict[str, np.ndarray], actions: Any = None, seeds: Any = 0) -> Any:
        """Begin sessions, as the engine does."""
        return self.engine.start(observations, actions, seeds=seeds)

    def rollout(self, state: Any, actions: Any) -> tuple[Any, Frame]:
        """Go on, as the engine does."""
        return self.engine.rollout(state, actions)

    def close(self) -> None:
        """There is nothing to let go of."""


class Checked:
    """Somebody else's entrant: what it raises becomes `EntrantError`, and so do frames of another shape or type."""

    def __init__(self, entrant: Entrant, spec: WorldSpec) -> None:
        self.entrant, self.spec = entrant, spec

    def describe(self) -> dict[str, Any]:
        """What the entrant says of itself; raises `EntrantError` unless it has a name and is JSON."""
        found = self._ask(self.entrant.describe)
        try:
            named = isinstance(found, dict) and isinstance(found.get("name"), str) and bool(found["name"])
            whole = json.loads(json.dumps(found)) if named else {}
        except (TypeError, ValueError):
            whole = {}
        if not whole:
            raise EntrantError(
                f"describe gave {found!r:.200}; expected JSON values with a name, as {{'name': 'mine'}}."
            )
        return {**whole, "kind": "entrant"}

    def start(self, observations: dict[str, np.ndarray], actions: Any = None, seeds: Any = 0) -> Any:
        """Begin sessions."""
        return self._ask(self.entrant.start, observations, actions, seeds)

    def rollout(self, state: Any, actions: Any) -> tuple[Any, Frame]:
        """Go on; raises `EntrantError` for frames that are not what was asked for."""
        answer = self._ask(self.entrant.rollout, state, actions)
        if not (isinstance(answer, tuple) and len(answer) == 2 and isinstance(answer[1], Frame)):
            raise EntrantError(f"rollout gave {type(answer).__name__}; expected the pair (state, Frame).")
        state, frame = answer
        lead = np.shape(actions)[:2]
        for name, stream in self.spec.modelled.items():
            wanted, dtype = (*lead, *stream.shape), np.uint8 if stream.kind == "image" else np.float32
            given = frame.observation.get(name)
            if given is None or np.shape(given) != wanted or np.asarray(given).dtype != dtype:
                said = "nothing" if given is None else f"{np.asarray(given).dtype} {np.shape(given)}"
                raise EntrantError(f"rollout gave {said} for {name!r}; expected {np.dtype(dtype).name} {wanted}.")
        for name, values in (("reward", frame.reward), ("terminated", frame.terminated)):
            if np.shape(values) != lead:
                raise EntrantError(f"rollout gave {name} of shape {np.shape(values)}; expected {lead}.")
        return state, frame

    def close(self) -> None:
        """Let it go."""
        self._ask(self.entrant.close)

    def _ask(self, method: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return method(*arguments)
        except EntrantError:
            raise
        except Exception as error:  # anything may come from a stranger's code
            raise EntrantError(f"{getattr(method, '__name__', 'it')} raised {type(error).__name__}: {error}") from error


def digest(world: World) -> str:
    """Hash all weights of a world and how it is put together."""
    found = hashlib.blake2b(repr(world.config).encode(), digest_size=16)
    for name, tensor in sorted(world.state_dict().items()):
        found.update(f"{name}{tuple(tensor.shape)}".encode() + tensor.detach().float().cpu().numpy().tobytes())
    return found.hexdigest()


def open_entrant(where: str, spec: WorldSpec) -> Checked:
    """Reach an entrant: `http://host:port`, or `module:factory`, a function of the `WorldSpec` that returns one.

    Raises `EntrantError` when there is none.
    """
    if where.startswith(("http://", "https://")):
        from .http_entrant import HttpEntrant

        return Checked(HttpEntrant(where), spec)
    module, _, factory = where.partition(":")
    try:
        made = getattr(importlib.import_module(module), factory)
    except (ImportError, AttributeError, ValueError) as error:
        raise EntrantError(f"{where!r} is neither http://host:port nor module:factory: {error}.") from error
    return Checked(made(spec), spec)
