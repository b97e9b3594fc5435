"""Replicas on the machines of a Ray cluster: one actor a device, each with its own process, socket and folder.

Actors and not deployments of Ray Serve: its router knows nothing of sessions, its proxies would carry every frame, and
its scaling would stop replicas that people play on. What remains of it, beginning a dead replica again, an actor does
as well. Ray's own ports run what they are sent: a cluster belongs into a network that nobody else reaches.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..errors import ServingError
from ..serving.app import bind, create_server
from ..serving.guard import check_binding, is_loopback
from ..serving.keeper import Keeper
from ..serving.limits import Limits
from ..serving.moves import ADRIFT
from .connect import connect
from .gateway import Berth, Gateway, create_gateway
from .placement import Load
from .replica import Replica

log = logging.getLogger("terrella.cluster")
ANSWER = 2.0  # seconds in which a replica says how loaded it is
BEGIN = 300.0  # seconds in which the first replica must have loaded its world


class Fleet:
    """Replicas as Ray actors, named `replica-0` and on; a context manager that ends them.

    worlds: paths that every machine can read, or gallery names, by name. store: a folder that all machines share.
    address: of a Ray cluster, as `connect` takes it. cpus, gpus: what a replica takes of a machine, whole or in part.
    everywhere: replicas are reached at their machines' addresses instead of 127.0.0.1, which needs a `token`.
    settings: see `Replica`. A replica that dies is begun again.
    Raises `MissingExtra` without Ray, `ServingError` where no replica comes up.
    """

    def __init__(
        self,
        worlds: Mapping[str, str],
        store: str | Path,
        *,
        replicas: int = 2,
        address: str | None = None,
        cpus: float = 1.0,
        gpus: float = 0.0,
        everywhere: bool = False,
        limits: Limits | None = None,
        **settings: Any,
    ) -> None:
        if replicas < 1:
            raise ServingError(f"replicas is {replicas}; a cluster has at least one.")
        check_binding("0.0.0.0" if everywhere else "127.0.0.1", settings.get("token"))
        self._ray, self._own = connect(address, "a cluster", cpus=math.ceil(replicas * cpus))
        store = Path(store).resolve()
        for folder in {store / ADRIFT, *(path.parent for path in store.glob("*/sessions"))}:
            _sweep(folder)
        told = {"limits": None if limits is None else asdict(limits), "everywhere": everywhere, **settings}
        options = {"num_cpus": cpus, "num_gpus": gpus, "max_restarts": -1, "max_concurrency": 8}
        actor = self._ray.remote(_Actor).options(**options)
        self._actors = {
            name: actor.remote(name, dict(worlds), str(store), told)
            for name in (f"replica-{i}" for i in range(replicas))
        }
        self._asked: dict[str, Any] = {}
        try:
            first = [actor.state.remote() for actor in self._actors.values()]
            ready, _ = self._ray.wait(first, num_returns=len(first), timeout=BEGIN)
            self._ray.get(ready)
            if len(ready) < len(first):
                raise ServingError(
                    f"{len(first) - len(ready)} of {replicas} replicas did not start in {BEGIN:.0f} s; does the "
                    f"cluster have {replicas * cpus:g} CPUs and {replicas * gpus:g} GPUs to give?"
                )
        except self._ray.exceptions.RayError as error:
            self.close()
            raise ServingError(f"a replica could not start: {error}") from error
        except BaseException:
            self.close()
            raise

    @property
    def names(self) -> Sequence[str]:
        """All replicas, dead or alive."""
        return tuple(self._actors)

    def states(self) -> dict[str, dict[str, Any]]:
        """What `Replica.state` says, of those that answer."""
        for name, actor in self._actors.items():
            if name not in self._asked:
                self._asked[name] = actor.state.remote()
        asked = {ref: name for name, ref in self._asked.items()}
        ready, _ = self._ray.wait(list(asked), num_returns=len(asked), timeout=ANSWER)
        found = {}
        for ref in ready:
            del self._asked[asked[ref]]
            try:
                found[asked[ref]] = self._ray.get(ref)
            except Exception as error:  # dead, being begun again, or its engine stopped
                log.warning("%s does not answer: %s", asked[ref], str(error).split("\n")[0])
        return found

    def look(self) -> dict[str, Berth]:
        """Those that answer, for a gateway."""
        return {name: Berth(state["url"], Load(**state["load"])) for name, state in self.states().items()}

    def release(self, name: str, count: int | None) -> None:
        """Have one send clients elsewhere, soon."""
        self._actors[name].release.remote(count)

    def give_up(self, name: str, token: str) -> None:
        """Have one let go of a session, and wait for that."""
        try:
            self._ray.get(self._actors[name].give_up.remote(token), timeout=15.0)
        except Exception:  # then it is dead, and the session free
            log.warning("%s could not be asked for a session", name)

    def close(self) -> None:
        """End all replicas; what was not said to be kept longer is written first."""
        ending = [actor.stop.remote() for actor in self._actors.values()]
        self._ray.wait(ending, num_returns=len(ending), timeout=10.0)
        for actor in self._actors.values():
            self._ray.kill(actor)
        if self._own:
            self._ray.shutdown()

    def __enter__(self) -> Fleet:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def serve_cluster(
    worlds: Mapping[str, str],
    store: str | Path,
    *,
    host: str = "127.0.0.1",
    port: int = 7860,
    token: str | None = None,
    limits: Limits | None = None,
    origins: Sequence[str] = (),
    on_ready: Callable[[str], None] | None = None,
    **fleet: Any,
) -> None:
    """Run a `Fleet` and the gateway to it until interrupted.

    host, port: of the gateway; other machines than this one need a `token`, and reach replicas at their own addresses.
    on_ready: called with the page's address once it answers. origins: under which browsers know the gateway
    (`https://play.example.org`), where that is not its host and port. fleet: more of what a `Fleet` takes.
    """
    check_binding(host, token)
    local = is_loopback(host)
    shown = f"http://[{host}]:" if ":" in host else f"http://{host}:"
    pages = [*origins, *([] if local else [f"{shown}{port}"])]
    with Fleet(worlds, store, token=token, limits=limits, origins=pages, everywhere=not local, **fleet) as replicas:
        app = create_gateway(Gateway(replicas, store), token=token, local=local, limits=limits)
        server = create_server(app, host=host, port=port, limits=limits)
        socket = bind(server)

        def announce() -> None:
            while not server.started:
                if server.should_exit:
                    return
                time.sleep(0.05)
            if on_ready is not None:
                on_ready(f"{shown}{socket.getsockname()[1]}/")

        threading.Thread(target=announce, name="terrella-announce", daemon=True).start()
        server.run([socket])


class _Actor:
    """A replica in a Ray actor. Told plain values, so that nothing of ours travels as code."""

    def __init__(self, name: str, worlds: dict[str, str], store: str, told: dict[str, Any]) -> None:
        import torch

        torch.set_num_threads(int(told.pop("threads", 1)))
        limits = told.pop("limits")
        if told.pop("everywhere"):
            told |= {"host": "0.0.0.0", "reach": connect(None, "a replica")[0].util.get_node_ip_address()}
        self._replica = Replica(name, worlds, store, limits=None if limits is None else Limits(**limits), **told)

    def state(self) -> dict[str, Any]:
        return self._replica.state()

    def release(self, count: int | None) -> int:
        return self._replica.release(count)

    def give_up(self, token: str) -> bool:
        return self._replica.give_up(token)

    def stop(self) -> None:
        self._replica.stop()


def _sweep(folder: Path) -> None:
    """Delete sessions of a folder that were left for long; not while a server of another cluster holds it."""
    keeper = Keeper(folder)
    keeper.start()
    keeper.close()
