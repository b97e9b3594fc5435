"""The command line: `terrella demo | record | train | learn | play | plan | evaluate | info`.

Each command is one call of the library. Mistakes of the user are told in a sentence, without a traceback.
"""

from __future__ import annotations

import importlib
import os
import re
import sys
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.console import Console
from tyro.conf import Positional, arg

from .errors import ArenaError, DatasetError, TerrellaError

Say = Console(stderr=True, highlight=False)


def record(
    env: Positional[str],
    /,
    out: Annotated[Path | None, arg(help_behavior_hint="(default: data/NAME)")] = None,
    steps: int = 20_000,
    episodes: int | None = None,
    policy: Literal["sticky-random", "random", "moody", "cover", "wall-walk", "seek"] = "sticky-random",
    seed: int = 0,
    max_episode_steps: int | None = 500,
    pixels: bool = False,
    size: Annotated[int | None, arg(help_behavior_hint="(default: 64)")] = None,
    frame_skip: int = 1,
    num_envs: int = 1,
) -> None:
    """Record an environment into a dataset.

    Args:
        env: A Gymnasium id (CartPole-v1, ALE/Pong-v5, my_module:MyEnv-v0) or a procgen game (procgen/coinrun).
        out: Folder of the dataset; an existing one is appended to.
        steps: Transitions to record.
        episodes: Episodes to record, if fewer.
        policy: Who acts: random, sticky-random (repeats each action a few steps), moody (each episode has habits of its
            own), cover (sees all places, then acts at random), wall-walk (in block worlds) or seek (in MiniGrid).
        seed: Decides everything that is random.
        max_episode_steps: Cut episodes there.
        pixels: Record rendered frames instead of the environment's own observations.
        size: Resize images to this many pixels square; 0 keeps them, the default where an environment asks for it.
        frame_skip: Repeat each action so many times.
        num_envs: Processes, each with an environment.
    """
    from .data import record as record_data

    _import_module(env)
    folder = out or Path("data") / _slug(env)
    dataset = record_data(
        env,
        folder,
        steps=steps,
        episodes=episodes,
        policy=policy,
        seed=seed,
        max_episode_steps=max_episode_steps,
        pixels=pixels or None,
        size=size,
        frame_skip=frame_skip,
        num_envs=num_envs,
    )
    Say.print(f"{dataset.steps:,} transitions in {len(dataset)} episodes: {folder}\nnext: terrella train {folder}")


def train(
    data: Positional[Path],
    /,
    out: Annotated[Path | None, arg(help_behavior_hint="(default: runs/NAME)")] = None,
    budget: str = "10m",
    preset: Literal["auto", "tiny", "small", "base", "debug"] = "auto",
    backbone: str | None = None,
    decoder: Literal["shortcut", "regression", "masked"] | None = None,
    seed: int = 0,
    device: str | None = None,
    resume: bool = True,
) -> None:
    """Train a world on a dataset. Interrupted, the same command goes on from where it stood.

    A folder that holds a finished world is left alone unless you pass --no-resume.

    Args:
        data: Folder of the dataset.
        out: Folder for the world.
        budget: How long: 10m, 90s, 2h or 5000steps.
        preset: Size of the world; auto follows budget and device.
        backbone: What remembers: transformer by default, or ssm, hybrid, rssm, reaction_diffusion, token_memory; flow
            or flow_wedge where actions declare how they move the view.
        decoder: How a frame is drawn: shortcut (diffusion in a few steps), regression (one expectation; the default of
            flow and flow_wedge), or masked (discrete tokens, for images).
        seed: Decides everything that is random.
        device: cpu or cuda; the best there is by default.
        resume: Continue from a checkpoint in the folder; without, begin anew and replace what is there.
    """
    from .data import Dataset
    from .engine import Alarm, calibrate
    from .training import train as train_world

    folder = out or Path("runs") / data.name
    world = train_world(
        data,
        folder,
        budget=budget,
        preset=preset,
        seed=seed,
        backbone=backbone,
        decoder=decoder,
        device=device,
        resume=resume,
    )
    with suppress(DatasetError):  # episodes too short to go on alone in
        world.alarm = calibrate(world, Dataset(data), [Alarm().signal])
        world.save(folder)
    Say.print(
        f"{world}\nheld-out loss {world.record['dynamics_held_out']:.4f} "
        f"after {world.record['steps']:,} steps: {folder}"
    )
    Say.print(f"next: terrella play {folder}   or   terrella evaluate {folder}")


def learn(
    world: Positional[str],
    /,
    data: Path | None = None,
    out: Annotated[Path | None, arg(help_behavior_hint="(default: beside the world)")] = None,
    steps: int = 200_000,
    algorithm: Literal["ppo", "a2c"] = "ppo",
    max_episode_steps: int = 50,
    episodes: int = 50,
    seed: int = 0,
    device: str | None = None,
) -> None:
    """Learn a policy inside a world, and try it in the true environment.

    Args:
        world: Folder of a world, or the name of one that ships with the package.
        data: Dataset whose moments imagined episodes begin at (and near which they stay, if it is of vectors); the few
            beginnings kept in the world by default.
        out: Folder for the policy.
        steps: Imagined transitions to learn from.
        algorithm: Who learns: ppo or a2c, of Stable-Baselines3.
        max_episode_steps: Cut imagined episodes there.
        episodes: True episodes to judge by; 0 for none, as where the environment is not installed.
        seed: Decides everything that is random.
        device: cpu or cuda.
    """
    from .data import Dataset
    from .learning import learn as learn_in
    from .learning import returns
    from .world import World

    loaded = World.load(world)
    folder = out or (Path(world) if Path(world).is_dir() else Path("runs") / loaded.name) / "policy"
    how = {"steps": steps, "max_episode_steps": max_episode_steps, "seed": seed, "device": device}
    near = None
    if data is not None and all(stream.kind == "vector" for stream in loaded.spec.modelled.values()):
        near = Dataset(data)
    policy = learn_in(loaded, algorithm=algorithm, starts=data, within=near, **how)
    policy.save(folder)
    Say.print(f"{policy.record['steps']:,} imagined transitions: {folder}")
    if episodes and loaded.spec.env.id:
        chance, found = (returns(who, loaded.spec.env, episodes=episodes, seed=seed) for who in (None, policy))
        Say.print(f"true return of {episodes} episodes: {found.mean():.2f} (at random {chance.mean():.2f})")


def play(
    world: Positional[str] = "coinrun",
    /,
    host: str = "127.0.0.1",
    port: int = 7860,
    token: str | None = None,
    steps: int | None = None,
    budget_ms: float | None = None,
    precision: str | None = None,
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
        truth: Show the true environment beside the world.
        open_browser: Open the page.
    """
    from .engine import engine_settings
    from .serving import serve
    from .world import World

    serve(
        World.load(world),
        host=host,
        port=port,
        token=token,
        steps=steps,
        engine=engine_settings(None, budget_ms=budget_ms, precision=precision),
        truth=truth,
        open_browser=open_browser,
        on_ready=lambda address: Say.print(f"{world} is at {address}   (Ctrl-C ends it)"),
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

        terrella train data/pendulum-v1 --preset debug --budget 5m

    With a world that does not fit, the commands for the task are printed. The GIF shows a plan as it was imagined
    beside what came of it.

    Args:
        world: Folder of a world, or the name of one that ships with the package.
        task: What is to be done: pendulum, cartpole, acrobot, mountaincar, reacher, balance, sprites, blocks, empty,
            rooms, doorkey, coinrun or leaper.
        planner: Who plans (see `terrella info`).
        budget: Futures that a plan may imagine.
        execute: Actions taken of each plan; the task's by default.
        episodes: Episodes, from starts that were never recorded.
        steps: Denoising steps a frame.
        ceiling: Measure the same planner in the true simulator, too.
        seed: Decides everything that is random.
        out: Folder for plan.json and plan.gif.
    """
    from .engine import Engine
    from .planning.catalogue import find_task
    from .trials import carry_out
    from .world import World

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


def evaluate(
    world: Positional[str],
    /,
    env: str | None = None,
    data: Path | None = None,
    out: Annotated[Path | None, arg(help_behavior_hint="(default: beside the world)")] = None,
    episodes: int = 32,
    policy: str = "sticky-random",
    steps: int | None = None,
    precision: str | None = None,
    memory: str | None = None,
    cache: str | None = None,
    seed: int = 0,
) -> None:
    """Measure a world against the true environment, from the same states under the same actions.

    Args:
        world: Folder of a world, or the name of one that ships with the package.
        env: Environment to compare with; the one it was recorded in by default.
        data: Dataset whose held-out episodes are the truth where the environment is not installed.
        out: Folder for report.json and report.html.
        episodes: Futures to compare.
        policy: Who acts, as in `record`.
        steps: Denoising steps a frame.
        precision: Bits of the weights: float32, bfloat16, int8 or int4.
        memory: Policy by which a session keeps its past, such as window or tempcache.
        cache: Rule by which denoising steps are forecast, such as interval or across.
        seed: Decides everything that is random.
    """
    from .engine import engine_settings
    from .evaluation import evaluate as measure
    from .world import World

    _import_module(env or "")
    loaded = World.load(world)
    folder = out or (Path(world) / "report" if Path(world).is_dir() else Path("runs") / f"{loaded.name}-report")
    how = {"steps": steps, "engine": engine_settings(None, precision=precision, memory=memory, cache=cache)}
    report = measure(loaded, env, dataset=data, episodes=episodes, policy=policy, seed=seed, out=folder, **how)
    for kind in ("warnings", "findings"):
        for line in report["summary"][kind]:
            Say.print(f"{'[bold yellow]![/]' if kind == 'warnings' else '-'} {_plain(line)}")
    Say.print(f"report: {folder / 'report.html'}")


def info(what: Positional[str | None] = None, /) -> None:
    """Describe a world or a dataset; without a name, list what there is.

    Args:
        what: Folder of a world or dataset, or the name of a world that ships with the package.
    """
    from .data import Dataset
    from .registry import names
    from .world import World

    if what is None:
        print("worlds:", ", ".join(World.list_gallery()) or "none")
        for kind in ("tokenizer", "dynamics", "decoder", "planner"):
            print(f"{kind}:", ", ".join(names(kind)))
        return
    if (Path(what) / "dataset.json").exists():
        dataset = Dataset(what)
        print(f"{len(dataset)} episodes, {dataset.steps:,} transitions, fingerprint {dataset.fingerprint}")
        _describe(dataset.spec)
        return
    world = World.load(what)
    print(world)
    _describe(world.spec)
    for key in ("preset", "steps", "seconds", "seed", "dataset"):
        if key in world.record:
            print(f"{key}: {world.record[key]}")
    for key, value in world.card.items():
        print(f"{key}: {value}")


def demo(env: str = "procgen/coinrun", budget: str = "6m", out: Path = Path("runs/demo"), port: int = 7860) -> None:
    """Go once around the loop: record a game, train a world of it, measure it, play it.

    With the environment variable DEMO_SERVE=0 it ends before serving.

    Args:
        env: Environment to learn.
        budget: How long to train.
        out: Folder for everything.
        port: Port of the page.
    """
    from .evaluation import write_preview
    from .world import World

    Say.rule("1 of 4: record")
    if (out / "data" / "dataset.json").exists():
        Say.print(f"using the recording in {out / 'data'}")
    else:
        record(env, out=out / "data", steps=24_000)
    Say.rule(f"2 of 4: train ({budget})")
    if (out / "world" / "world.json").exists():
        Say.print(f"using the world in {out / 'world'}; delete the folder to train again")
    else:
        train(out / "data", out=out / "world", budget=budget, preset="tiny")
    Say.rule("3 of 4: measure")
    evaluate(str(out / "world"), out=out / "report", episodes=16)
    world = World.load(out / "world")
    write_preview(world, out / "world" / "preview.webp")
    Say.print(f"preview: {out / 'world' / 'preview.webp'}")
    if os.environ.get("DEMO_SERVE", "1") == "0":
        return
    Say.rule("4 of 4: play")
    play(str(out / "world"), port=port)


def main(args: list[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    commands = {"demo": demo, "record": record, "train": train, "learn": learn, "play": play, "plan": plan}
    commands |= {"evaluate": evaluate, "info": info}
    try:
        tyro.extras.subcommand_cli_from_dict(
            commands, prog="terrella", description="Learn a world from recordings, and live in it.", args=args
        )
    except TerrellaError as error:
        Say.print(f"[bold red]error:[/] {_plain(error)}")
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _import_module(env: str) -> None:
    """Import the module of `module:Id`, which registers the environment; it may lie in the working folder."""
    if ":" in env:
        sys.path.insert(0, os.getcwd())
        try:
            importlib.import_module(env.split(":")[0])
        except ModuleNotFoundError as error:
            raise ArenaError(f"{env!r} names a module that cannot be imported: {error}.") from error


def _describe(spec: object) -> None:
    from .actions import describe
    from .spec import WorldSpec

    if isinstance(spec, WorldSpec):
        print("environment:", spec.env.id or "not named", spec.env.kwargs or "")
        print("streams:", ", ".join(f"{n} {s.kind}{tuple(s.shape)}" for n, s in spec.streams.items()))
        print("actions:", describe(spec.action), " ".join(spec.action_names))


def _slug(env: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", env.split(":")[-1].removeprefix("procgen/").lower()).strip("-")


def _plain(text: object) -> str:
    return str(text).replace("[", "\\[")  # rich would take brackets for markup


if __name__ == "__main__":
    sys.exit(main())
