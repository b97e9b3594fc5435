"""A model from outside, measured by the suite: a GRU in plain PyTorch, for environments whose observations are vectors.

    terrella record Pendulum-v1 --steps 20000 --out data/pendulum
    python examples/gru_entrant.py train data/pendulum --out gru.safetensors        # about a minute on one core
    terrella evaluate --suite core --env Pendulum-v1 --entrant examples.gru_entrant:load

or, from another process, another machine, another language:

    python examples/gru_entrant.py serve gru.safetensors --port 8123
    terrella evaluate --suite core --env Pendulum-v1 --entrant http://127.0.0.1:8123

It has a training loop of its own and reads recordings as arrays; of Terrella's worlds and engines it knows nothing.
`Entrant` has the four methods that the suite asks for, `server` answers the same by three requests: docs/evaluation.md.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from terrella import Dataset
from terrella.errors import EntrantError
from terrella.evaluation import Frame, wire
from terrella.spec import WorldSpec

LENGTH = 16  # transitions of a clip; the second half is foretold without looking


class Gru(nn.Module):
    """Expects the change of an observation from what it was and what is done.

    features: numbers F of an observation. width: numbers W of an action row. choices: how many an action has if its row
    is an index, else 0.
    """

    def __init__(self, features: int, width: int, choices: int, dim: int = 96):
        super().__init__()
        self.sizes = {"features": features, "width": width, "choices": choices, "dim": dim}
        given = features + (choices or width)
        self.cell = nn.GRUCell(given, dim)
        self.out = nn.Sequential(nn.Linear(dim + given, dim), nn.SiLU(), nn.Linear(dim, features))
        self.mean, self.scale = nn.Buffer(torch.zeros(features)), nn.Buffer(torch.ones(features))
        self.change = nn.Buffer(torch.ones(features))  # in one step

    def forward(self, x_BF: Tensor, a_BW: Tensor, h_BD: Tensor) -> tuple[Tensor, Tensor]:
        """The next observation and memory."""
        choices = self.sizes["choices"]
        act = nn.functional.one_hot(a_BW[:, 0].long(), choices).to(x_BF.dtype) if choices else a_BW
        now = torch.cat([(x_BF - self.mean) / self.scale, act], -1)
        h_BD = self.cell(now, h_BD)
        return x_BF + self.out(torch.cat([h_BD, now], -1)) * self.change, h_BD

    def read(self, x_BTF: Tensor, a_BTW: Tensor) -> tuple[Tensor, Tensor]:
        """One step ahead of the true observations `(B, T, F)` under actions `(B, T, W)`, and the memory after them."""
        h, said = x_BTF.new_zeros(len(x_BTF), self.sizes["dim"]), [x_BTF[:, :0]]
        for x, a in zip(x_BTF.unbind(1), a_BTW.unbind(1)):
            x, h = self(x, a, h)
            said.append(x[:, None])
        return torch.cat(said, 1), h


def flat(observations: dict[str, np.ndarray], streams: dict[str, int]) -> Tensor:
    """All streams side by side, float32 `(B, T, F)`."""
    return torch.from_numpy(np.concatenate([observations[name] for name in streams], -1).astype(np.float32))


def vectors(spec: WorldSpec) -> dict[str, int]:
    """Length of each stream; raises `EntrantError` where one is no vector."""
    pictures = [name for name, stream in spec.modelled.items() if stream.kind != "vector"]
    if pictures:
        raise EntrantError(f"streams {pictures} are images; this model takes vectors, as of Pendulum-v1.")
    return {name: stream.shape[0] for name, stream in spec.modelled.items()}


def fit(data: Dataset, steps: int, batch: int = 64, seed: int = 0) -> tuple[Gru, dict[str, int]]:
    """Learn to foretell one step, and several without looking; returns the model and the streams it is of."""
    torch.manual_seed(seed)
    streams, rng = vectors(data.spec), np.random.default_rng(seed)
    length = min(LENGTH, int(data.lengths[data.split()].max()))
    choices = data.spec.action.n if data.spec.action.kind == "discrete" else 0
    some = data.sample(1024, length, rng)
    x_BTF = flat(some.observations, streams)
    model = Gru(x_BTF.shape[-1], some.actions.shape[-1], choices)
    model.mean.copy_(x_BTF.mean((0, 1)))
    model.scale.copy_(x_BTF.std((0, 1)) + 1e-6)
    model.change.copy_(x_BTF.diff(dim=1).std((0, 1)) + 1e-6)
    optimiser = torch.optim.Adam(model.parameters(), 2e-3)
    slower = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    half = length // 2
    for _ in range(steps):
        clips = data.sample(batch, length, rng)
        x_BTF, a_BTW = flat(clips.observations, streams), torch.from_numpy(clips.actions)
        ahead, h = model.read(x_BTF[:, :half], a_BTW[:, :half])
        loss = (((ahead - x_BTF[:, 1 : half + 1]) / model.change) ** 2).sum()
        x = x_BTF[:, half]
        for t in range(half, length):
            x, h = model(x, a_BTW[:, t], h)
            loss = loss + (((x - x_BTF[:, t + 1]) / model.scale) ** 2).sum()
        optimiser.zero_grad()
        (loss / x_BTF[:, 1:].numel()).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        slower.step()
    return model, streams


def save(model: Gru, streams: dict[str, int], path: Path) -> None:
    """Write weights, and beside them what the model is of."""
    told = {"sizes": json.dumps(model.sizes), "streams": json.dumps(streams)}
    save_file(model.state_dict(), path, metadata=told)


class Entrant:
    """What the suite asks for. A state is a dictionary of arrays, so that it can travel; there is no chance in it."""

    def __init__(self, path: str | Path) -> None:
        with safe_open(str(path), "pt") as file:
            told = file.metadata()
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        self.streams: dict[str, int] = json.loads(told["streams"])
        self.model = Gru(**json.loads(told["sizes"])).eval().requires_grad_(False)
        self.model.load_state_dict(weights)
        self.digest = hashlib.sha256(b"".join(v.numpy().tobytes() for v in weights.values())).hexdigest()[:16]

    def describe(self) -> dict[str, Any]:
        """Name, and a digest of the weights: other weights are another entrant."""
        return {"name": "gru", "digest": self.digest}

    def start(self, observations: dict[str, np.ndarray], actions: Any = None, seeds: Any = 0) -> dict[str, np.ndarray]:
        """Read contexts, stream -> `(B, c+1, F)` and actions `(B, c, W)`; nothing is random, so no seed is needed."""
        x_BTF = flat(observations, self.streams)
        a_BTW = x_BTF.new_zeros(len(x_BTF), 0, self.model.sizes["width"])
        if actions is not None:
            a_BTW = torch.from_numpy(np.array(actions, np.float32))
        _, h = self.model.read(x_BTF[:, :-1], a_BTW)
        return {"x": x_BTF[:, -1].numpy(), "h": h.numpy()}

    def rollout(self, state: dict[str, np.ndarray], actions: Any) -> tuple[dict[str, np.ndarray], Frame]:
        """Go on under actions `(B, T, W)`."""
        x, h = (torch.from_numpy(state[key]) for key in "xh")
        said = []
        for a_BW in torch.from_numpy(np.array(actions, np.float32)).unbind(1):
            x, h = self.model(x, a_BW, h)
            said.append(x)
        parts = torch.stack(said, 1).split(list(self.streams.values()), -1)
        blank = np.zeros(np.shape(actions)[:2], np.float32)  # it foretells neither rewards nor ends
        frame = Frame({name: part.numpy() for name, part in zip(self.streams, parts)}, blank, blank.copy())
        return {"x": x.numpy(), "h": h.numpy()}, frame

    def close(self) -> None:
        """There is nothing to let go of."""


def load(spec: WorldSpec) -> Entrant:
    """The factory for `--entrant examples.gru_entrant:load`: weights from $GRU_WEIGHTS, by default gru.safetensors."""
    path = os.environ.get("GRU_WEIGHTS", "gru.safetensors")
    if not Path(path).is_file():
        raise EntrantError(f"there are no weights at {path!r}; train them, or say in GRU_WEIGHTS where they are.")
    entrant = Entrant(path)
    if entrant.streams != vectors(spec):
        raise EntrantError(f"{path} was trained on streams {entrant.streams}; this environment has {vectors(spec)}.")
    return entrant


def server(entrant: Entrant, port: int = 0) -> ThreadingHTTPServer:
    """A server on this machine alone that keeps nothing; port 0 takes a free one."""

    def start(asked: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        observations = {name: asked[f"observations/{name}"] for name in entrant.streams}
        return _named("state", entrant.start(observations, asked["actions"], asked["seeds"]))

    def rollout(asked: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        state, frame = entrant.rollout({key: asked[f"state/{key}"] for key in "xh"}, asked["actions"])
        return _named("state", state) | _named("frames", frame.observation)

    class Handler(BaseHTTPRequestHandler):
        timeout = 60

        def do_GET(self) -> None:
            known = self.path == "/describe"
            self._answer(200 if known else 404, json.dumps(entrant.describe()).encode() if known else b"")

        def do_POST(self) -> None:
            method = {"/start": start, "/rollout": rollout}.get(self.path)
            length = int(self.headers.get("Content-Length") or 0)
            if method is None or not 0 < length <= wire.LIMIT:
                self.close_connection = True
                self._answer(404 if method is None else 413, b"")
                return
            try:
                self._answer(200, wire.pack(method(wire.unpack(self.rfile.read(length)))))
            except (EntrantError, KeyError, RuntimeError, ValueError, TypeError) as error:
                self._answer(400, str(error).encode())

        def _answer(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            """Say nothing of each request."""

    return ThreadingHTTPServer(("127.0.0.1", port), Handler)


def _named(prefix: str, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {f"{prefix}/{name}": array for name, array in arrays.items()}


def main(args: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    training = commands.add_parser("train", help="fit a model to a recording")
    training.add_argument("dataset", type=Path)
    training.add_argument("--out", type=Path, default=Path("gru.safetensors"))
    training.add_argument("--steps", type=int, default=4000)
    training.add_argument("--seed", type=int, default=0)
    serving = commands.add_parser("serve", help="answer by HTTP")
    serving.add_argument("weights", type=Path)
    serving.add_argument("--port", type=int, default=8123)
    options = parser.parse_args(args)
    if options.command == "train":
        model, streams = fit(Dataset(options.dataset), options.steps, seed=options.seed)
        save(model, streams, options.out)
        print(options.out)
        return
    with server(Entrant(options.weights), options.port) as answering:
        print(f"http://127.0.0.1:{answering.server_port}", flush=True)
        answering.serve_forever()


if __name__ == "__main__":
    main()
