"""An entrant behind a URL: three requests, arrays as npz, nothing kept on the server.

    GET  /describe                                                     -> JSON with `name`
    POST /start    observations/<stream>, actions, seeds               -> state/<anything>
    POST /rollout  state/<anything>, actions                           -> state/<anything>, frames/<stream>
                                                                          and, if there are any, reward, terminated

The state is whatever arrays the server wants to see again; a server that would rather keep it hands out a number.
`examples/gru_entrant.py` has a server.
"""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from typing import Any

import numpy as np

from ..engine import Frame
from ..errors import EntrantError
from . import wire

_TIMEOUT = 600.0  # seconds; a large model may need long for a rollout


class _Stay(urllib.request.HTTPRedirectHandler):
    """Follows no redirect: whoever was named answers."""

    def redirect_request(self, req: Any, fp: Any, code: Any, msg: Any, headers: Any, newurl: Any) -> None:
        """Return no request to go on with."""


class HttpEntrant:
    """The model that a server at `url` gives access to; raises `EntrantError` for whatever goes wrong on the way."""

    def __init__(self, url: str, timeout: float = _TIMEOUT) -> None:
        if not url.startswith(("http://", "https://")):
            raise EntrantError(f"{url!r} is no address; expected http://host:port.")
        self.url, self.timeout = url.rstrip("/"), timeout
        self._open = urllib.request.build_opener(_Stay()).open

    def describe(self) -> dict[str, Any]:
        """What the server says of the model."""
        data = self._ask("describe", None)
        try:
            found = json.loads(data)
        except ValueError as error:
            raise EntrantError(f"{self.url}/describe gave no JSON: {error}.") from error
        if not isinstance(found, dict):
            raise EntrantError(f"{self.url}/describe gave {type(found).__name__}; expected an object with a name.")
        return found

    def start(self, observations: dict[str, np.ndarray], actions: Any = None, seeds: Any = 0) -> dict[str, np.ndarray]:
        """Begin sessions; the state is what the server answers."""
        asked = {f"observations/{name}": np.asarray(frames) for name, frames in observations.items()}
        batch = len(next(iter(asked.values())))
        keys = np.arange(seeds, seeds + batch) if np.ndim(seeds) == 0 else np.asarray(seeds)
        asked |= {"actions": np.asarray(actions, np.float32), "seeds": keys.astype(np.int64)}
        return _under("state/", wire.unpack(self._ask("start", wire.pack(asked))))

    def rollout(self, state: dict[str, np.ndarray], actions: Any) -> tuple[dict[str, np.ndarray], Frame]:
        """Go on from a state."""
        asked = {f"state/{name}": array for name, array in state.items()}
        asked["actions"] = np.asarray(actions, np.float32)
        found = wire.unpack(self._ask("rollout", wire.pack(asked)))
        blank = np.zeros(asked["actions"].shape[:2], np.float32)
        frame = Frame(_under("frames/", found), found.get("reward", blank), found.get("terminated", blank.copy()))
        return _under("state/", found), frame

    def close(self) -> None:
        """Nothing is kept on the server."""

    def _ask(self, what: str, body: bytes | None) -> bytes:
        headers = {"Content-Type": "application/octet-stream"}
        try:
            request = urllib.request.Request(f"{self.url}/{what}", data=body, headers=headers)
            with self._open(request, timeout=self.timeout) as answer:
                data = answer.read(wire.LIMIT + 2**20)
        except urllib.error.HTTPError as error:
            raise EntrantError(f"{self.url}/{what} answered {error.code}: {error.read(500)!r}.") from error
        except (OSError, ValueError) as error:
            raise EntrantError(f"{self.url}/{what} did not answer: {error}. Is the server running?") from error
        if len(data) > wire.LIMIT:
            raise EntrantError(f"{self.url}/{what} answered more than {wire.LIMIT:,} bytes.")
        return data


def _under(prefix: str, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
