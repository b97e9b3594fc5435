"""A model of one's own, measured by the suite: a plain PyTorch GRU behind a small HTTP server.

    python examples/http_entrant.py --port 8123
    terrella evaluate --env CartPole-v1 --entrant http://127.0.0.1:8123

Nothing of a `World` is used: the recordings are read as arrays, and three requests are answered (the protocol is in
docs/evaluation.md). The server keeps nothing: what a session has to remember travels to the client and back.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import tempfile
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import terrella
from terrella.errors import EntrantError
from terrella.evaluation import wire


class Gru(nn.Module):
    """Expects the change of the observation from what it was and what is done."""

    def __init__(self, features: int, width: int, dim: int = 64):
        super().__init__()
        self.cell = nn.GRUCell(features + width, dim)
        self.out = nn.Sequential(nn.Linear(dim + features + width, dim), nn.SiLU(), nn.Linear(dim, features))
        self.scale = nn.Buffer(torch.ones(features))
        self.change = nn.Buffer(torch.ones(features))

    def forward(self, x_BF: Tensor, a_BW: Tensor, h_BD: Tensor) -> tuple[Tensor, Tensor]:
        """The next observation and memory."""
        now = torch.cat([x_BF / self.scale, a_BW], -1)
        h_BD = self.cell(now, h_BD)
        return x_BF + self.out(torch.cat([h_BD, now], -1)) * self.change, h_BD

    def read(self, x_BTF: Tensor, a_BTW: Tensor) -> tuple[Tensor, Tensor]:
        """One step ahead of every true observation `(B, T, F)`, and the memory after the last."""
        h, said = x_BTF.new_zeros(len(x_BTF), self.cell.hidden_size), []
        for t in range(a_BTW.shape[1]):
            x, h = self(x_BTF[:, t], a_BTW[:, t], h)
            said.append(x)
        return torch.stack(said, 1) if said else x_BTF[:, :0], h


def fit(env: str, folder: str, seconds: float, steps: int, length: int = 12) -> Gru:
    """Record an environment whose observation is one vector, and fit the GRU one step ahead and five."""
    data = terrella.record(env, folder, steps=steps, progress=False)
    loader = np.random.default_rng(0)
    episodes = [data.episode(i) for i in range(len(data))]
    episodes = [e for e in episodes if len(e.actions) > length]
    x = np.concatenate([e.observations["vector"] for e in episodes])
    moved = np.concatenate([np.diff(e.observations["vector"], axis=0) for e in episodes])
    torch.manual_seed(0)
    model = Gru(x.shape[1], episodes[0].actions.shape[1])
    model.scale.copy_(torch.from_numpy(x.std(0) + 1e-6))
    model.change.copy_(torch.from_numpy(moved.std(0) + 1e-6))
    optimiser = torch.optim.Adam(model.parameters(), 2e-3)
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        chosen = [episodes[i] for i in loader.integers(len(episodes), size=64)]
        first = [int(loader.integers(len(e.actions) - length)) for e in chosen]
        x_BTF = torch.from_numpy(
            np.stack([e.observations["vector"][f : f + length + 1] for e, f in zip(chosen, first)])
        )
        a_BTW = torch.from_numpy(
            np.stack([e.actions[f : f + length] for e, f in zip(chosen, first)]).astype(np.float32)
        )
        half = length // 2
        ahead, h = model.read(x_BTF[:, : half + 1], a_BTW[:, :half])
        loss = (((ahead - x_BTF[:, 1 : half + 1]) / model.change) ** 2).mean()
        now = x_BTF[:, half]
        for t in range(half, length):
            now, h = model(now, a_BTW[:, t], h)
            loss = loss + (((now - x_BTF[:, t + 1]) / model.scale) ** 2).mean()
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
    return model.eval().requires_grad_(False)


class Model:
    """Answers the three requests."""

    def __init__(self, gru: Gru, name: str = "gru"):
        self.gru, self.name = gru, name

    def describe(self) -> dict[str, Any]:
        """Name, and a digest of the weights: other weights are another entrant."""
        weights = b"".join(v.numpy().tobytes() for v in self.gru.state_dict().values())
        return {"name": self.name, "digest": hashlib.sha256(weights).hexdigest()[:16]}

    def start(self, asked: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Read the context. There is no chance in this model, so the seeds are not needed."""
        x_BTF = torch.from_numpy(asked["observations/vector"].astype(np.float32))
        _, h = self.gru.read(x_BTF, torch.from_numpy(asked["actions"]))
        return {"state/x": x_BTF[:, -1].numpy(), "state/h": h.numpy()}

    def rollout(self, asked: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Go on under actions `(B, T, W)`."""
        x, h = (torch.from_numpy(asked[f"state/{key}"]) for key in "xh")
        frames = []
        for a_BW in torch.from_numpy(asked["actions"]).unbind(1):
            x, h = self.gru(x, a_BW, h)
            frames.append(x)
        return {"frames/vector": torch.stack(frames, 1).numpy(), "state/x": x.numpy(), "state/h": h.numpy()}


def server(model: Model, port: int = 0) -> ThreadingHTTPServer:
    """A server on this machine alone; port 0 takes a free one."""

    class Handler(BaseHTTPRequestHandler):
        timeout = 60

        def do_GET(self) -> None:
            known = self.path == "/describe"
            self._answer(200 if known else 404, json.dumps(model.describe()).encode() if known else b"")

        def do_POST(self) -> None:
            method = {"/start": model.start, "/rollout": model.rollout}.get(self.path)
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


def main() -> None:
    """Fit and serve."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--env", default="CartPole-v1")
    parser.add_argument("--seconds", type=float, default=60.0, help="of fitting")
    parser.add_argument("--steps", type=int, default=20_000, help="of recording")
    parser.add_argument("--port", type=int, default=8123)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        gru = fit(options.env, f"{folder}/data", options.seconds, options.steps)
    with server(Model(gru), options.port) as serving:
        print(f"http://127.0.0.1:{serving.server_port}", flush=True)
        serving.serve_forever()


if __name__ == "__main__":
    main()
