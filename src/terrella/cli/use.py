"""Commands that use a world: play it, serve it to others, plan in it."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import Positional, arg

from ..errors import ConfigError
from .say import Say, plain


def play(
    world: Positional[str] = "coinrun",
    /,
    host: str = "127.0.0.1",
    port: int = 7860,
    token: str | None = None,
    steps: int | None = None,
    budget_ms: float | None = None,
    precision: str | None = None,
    batch: int = 1,
    exact: bool = False,
    keep: Path | None = None,
    truth: bool = True,
    open_browser: bool = False,
) -> None:
    """Play a world in the browser, with the true environment beside it where it is installed.

    Args:
        world: Folder of a world, or the name of one that ships with the package (see `terrella info`).
        host: Address to listen on; others than this machine need a token.
        port: Port to listen on; 0 takes a free one.
        token: A secret that every player must give.
        steps: Denoising steps a frame.
        budget_ms: Take as many denoising steps as fit into so many milliseconds a frame.
        precision: Bits of the weights: float32, bfloat16, int8 or int4.
        batch: Step up to so many players together; more of them find room then.
        exact: Pad every batch, so that a player's frames do not depend on the others by a single bit.
        keep: Folder in which sessions outlive a lost connection and a stopped server.
        truth: Show the true environment beside the world.
        open_browser: Open the page.
    """
    from ..engine import engine_settings
    from ..serving import serve
    from ..world import World

    serve(
        World.load(world),
        host=host,
        port=port,
        token=token,
        steps=steps,
        engine=engine_settings(None, budget_ms=budget_ms, precision=precision),
        batch=batch,
        exact=exact,
        keep=keep,
        truth=truth,
        open_browser=open_browser,
        on_ready=lambda address: Say.print(f"{world} is at {address}   (Ctrl-C ends it)"),
    )


def serve(
    worlds: Positional[tuple[str, ...]] = (),
    /,
    host: str = "127.0.0.1",
    port: int = 7860,
    public: str | None = None,
    token_file: Path | None = None,
    batch: int | None = None,
    exact: bool = False,
    keep: Path | None = None,
    clients: int = 64,
    sessions: int = 128,
    device: str = "cpu",
    steps: int | None = None,
    budget_ms: float | None = None,
    precision: str | None = None,
    truth: bool = False,
    log: Literal["text", "json"] = "text",
    cluster: str | None = None,
    replicas: int | None = None,
    store: str | None = None,
) -> None:
    """Serve worlds to many people, and to programs, until interrupted: page, socket and HTTP API.

    Other machines can connect only with a token: the one in `token_file`, or one that is printed at the start. How to
    put TLS in front of it is in SECURITY.md.

    Args:
        worlds: Folders of worlds, or names of those that ship with the package; all of these by default.
        host: Address to listen on; others than this machine need a token.
        port: Port to listen on; 0 takes a free one.
        public: Address under which a proxy offers this server, as https://world.example; needs a token.
        token_file: File with the secret that every client must give; made, with a random one, if it is not there.
        batch: Step up to so many sessions together (32; 16 with --exact), refuse who would be late; 1: each alone.
        exact: Pad every batch, so that a session's frames do not depend on the others by a single bit.
        keep: Folder in which sessions outlive a lost connection and a stopped server.
        clients: Connections at once.
        sessions: Sessions at once.
        device: cpu or cuda.
        steps: Denoising steps a frame.
        budget_ms: Take as many denoising steps as fit into so many milliseconds a frame.
        precision: Bits of the weights: float32, bfloat16, int8 or int4.
        truth: Run the true environment beside every session.
        log: Write the log for people or, as JSON lines, for machines.
        cluster: Ray cluster to serve from instead: auto, host:6379, ray://host:10001, or local for one here.
        replicas: Servers there, with a CPU each, and with --device cuda a GPU; 2 if not said.
        store: Folder that all machines of the cluster share, in which its sessions are kept; or, for one server with
            --keep, the URL where its snapshots and shared moments rest (s3://bucket/prefix, sftp://host/path).
    """
    if cluster is None and (replicas is not None or not (store is None or "://" in store)):
        raise ConfigError(
            "--replicas and a folder as --store are a cluster's: add --cluster local (or its address), or leave them "
            "out; one server alone keeps sessions with --keep FOLDER, and beside it may have a URL as --store."
        )
    if cluster is None and store is not None and keep is None:
        raise ConfigError("--store is for what never changes of sessions; add --keep FOLDER for their journals.")
    if cluster is not None:
        _check_cluster(cluster, store, keep, host, public)
    from ..engine import engine_settings
    from ..serving import guard
    from ..serving import serve as run
    from ..serving.limits import Limits, default_batch
    from ..serving.logs import configure_logs
    from ..world import World

    configure_logs(log)
    token = guard.read_token(token_file) if token_file is not None else None
    made = token is None and (public is not None or not guard.is_loopback(host))
    if made:
        token = secrets.token_urlsafe(32)

    def announce(address: str) -> None:
        Say.print(f"serving at {public or address}   (Ctrl-C ends it)")
        if made:
            Say.print(f"clients must give this token: {plain(token)}")

    how: dict[str, Any] = {
        "host": host,
        "port": port,
        "token": token,
        "batch": default_batch(exact) if batch is None else batch,
        "exact": exact,
        "limits": Limits(clients=clients, sessions=sessions),
        "device": device,
        "steps": steps,
        "engine": engine_settings(None, budget_ms=budget_ms, precision=precision),
        "truth": truth,
        "on_ready": announce,
    }
    if cluster is None or store is None:
        run(worlds or World.list_gallery(), public=public, keep=keep, store=store, gallery=False, **how)
        return
    from ..cluster import serve_cluster
    from ..serving.app import name_worlds

    named = name_worlds(worlds or World.list_gallery())
    World.load(str(next(iter(named.values()))))  # a wrong path should be said here, not by a replica
    there = {name: str(Path(str(at)).resolve() if Path(str(at)).exists() else at) for name, at in named.items()}
    serve_cluster(
        there,
        store,
        address=cluster,
        replicas=2 if replicas is None else replicas,
        gpus=1.0 if device.startswith("cuda") else 0.0,
        origins=[] if public is None else [public],
        **how,
    )


def _check_cluster(cluster: str, store: str | None, keep: Path | None, host: str, public: str | None) -> None:
    """Raise `ConfigError` for options that a cluster cannot be served with."""
    from ..serving.guard import is_loopback, site

    if store is None:
        raise ConfigError(
            "a cluster's replicas share their sessions: add --store FOLDER, which all machines can reach."
        )
    if "://" in store:
        raise ConfigError("a cluster moves sessions by renaming files: --store is a folder that its machines share.")
    if keep is not None:
        raise ConfigError("--keep is for one server; a cluster keeps its sessions in --store: leave --keep out.")
    if is_loopback(host):
        if public is not None:
            raise ConfigError(
                "--public needs a --host that other machines reach: clients of a cluster reach replicas too."
            )
    elif cluster == "local":
        raise ConfigError("--cluster local is heard on this machine alone; leave --host out, or join a cluster: auto.")
    elif public is None:
        raise ConfigError(
            f"replicas must know at which address browsers find the page, and {host} may have several: add --public "
            "http://NAME:PORT."
        )
    elif site(public)[0] != "http":
        raise ConfigError(
            f"{public} is a page whose browsers connect by TLS only, which replicas do not speak; write it as http://, "
            "on a network of your own."
        )


def plan(
    world: Positional[str],
    /,
    task: str,
    planner: str = "icem",
    budget: int = 64,
    execute: int | None = None,
    episodes: int = 10,
    steps: int | None = 1,
    ceiling: bool = True,
    seed: int = 0,
    out: Annotated[Path | None, arg(help_behavior_hint="(default: plan-TASK beside the world)")] = None,
) -> None:
    """Plan in a world, act in the true environment, and see how well that went.

    A world for a task is recorded and trained like any other; for pendulum:

        terrella record Pendulum-v1 --frame-skip 4 --steps 20000 --max-episode-steps 200 --out data/pendulum-v1

        terrella train data/pendulum-v1 --preset nano --decoder regression --budget 5m

    With a world that does not fit, the commands for the task are printed. The GIF shows a plan as it was imagined
    beside what came of it.

    Args:
        world: Folder of a world, or the name of one that ships with the package.
        task: What is to be done: pendulum, cartpole, acrobot, mountaincar, reacher, balance, sprites, blocks, empty,
            rooms, doorkey, maze, coinrun or leaper.
        planner: Who plans (see `terrella info`).
        budget: Futures that a plan may imagine.
        execute: Actions taken of each plan; the task's by default.
        episodes: Episodes, from starts that were never recorded.
        steps: Denoising steps a frame.
        ceiling: Measure the same planner in the true simulator, too.
        seed: Decides everything that is random.
        out: Folder for plan.json and plan.gif.
    """
    from ..engine import Engine
    from ..planning.catalogue import find_task
    from ..trials import carry_out
    from ..world import World

    wanted = find_task(task)
    loaded = World.load(world)
    folder = out or (Path(world) / f"plan-{task}" if Path(world).is_dir() else Path("runs") / f"{loaded.name}-{task}")
    engine, how = Engine(loaded, steps=steps), {"execute": execute, "seed": seed, "ceiling": ceiling}
    result = carry_out(engine, wanted, planner, budget=budget, episodes=episodes, out=folder, progress=True, **how)
    print(f"{task}: {wanted.about}")
    for name, row in result["rows"].items():
        low, high = row["success_interval"]
        print(f"{name:>14}  success {row['success']:.2f} ({low:.2f} to {high:.2f})  return {row['return']:.2f}")
    if result["regret"] is not None:
        print(f"regret against the perfect model: {result['regret']['return']:.2f} in return")
    Say.print(f"film: {folder / 'plan.gif'}")
