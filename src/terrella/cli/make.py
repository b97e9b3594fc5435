"""Commands that make something: recordings, worlds, policies."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import Positional, arg

from ..errors import ConfigError, DatasetError
from .say import Say, import_module, slug


def record(
    env: Positional[str],
    /,
    out: Annotated[Path | None, arg(help_behavior_hint="(default: data/NAME)")] = None,
    steps: int = 20_000,
    episodes: int | None = None,
    policy: Literal[
        "sticky-random", "random", "moody", "cover", "wall-walk", "seek", "speak", "hindsight"
    ] = "sticky-random",
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
            own), cover (sees all places, then acts at random), wall-walk (in block
            worlds), seek (in MiniGrid); where actions are sentences, speak (asks for what can be done) or hindsight
            (says what was done).
        seed: Decides everything that is random.
        max_episode_steps: Cut episodes there.
        pixels: Record rendered frames instead of the environment's own observations.
        size: Resize images to this many pixels square; 0 keeps them, the default where an environment asks for it.
        frame_skip: Repeat each action so many times.
        num_envs: Processes, each with an environment.
    """
    from ..data import record as record_data

    import_module(env)
    folder = out or Path("data") / slug(env)
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
    preset: Literal["auto", "nano", "tiny", "small", "base", "debug"] = "auto",
    backbone: str | None = None,
    decoder: Literal["shortcut", "regression", "residual", "masked", "swin"] | None = None,
    seed: int = 0,
    device: str | None = None,
    resume: bool = True,
    cluster: str | None = None,
    workers: Annotated[int | None, arg(help_behavior_hint="(default: 2 with --cluster)")] = None,
    shard: bool = False,
) -> None:
    """Train a world on a dataset. Interrupted, the same command goes on from where it stood.

    A folder that holds a finished world is left alone unless you pass --no-resume.

    Args:
        data: Folder of the dataset.
        out: Folder for the world.
        budget: How long: 10m, 90s, 2h or 5000steps.
        preset: Size of the world; auto follows budget and device.
        backbone: What remembers: transformer by default, or ssm, hybrid, rssm, reaction_diffusion, token_memory,
            language; flow or flow_wedge where actions declare how they move the view.
        decoder: How a frame is drawn: shortcut (diffusion in a few steps), regression (one expectation; the default of
            flow and flow_wedge), residual (an expectation, and what chance makes of it), masked (discrete tokens, for
            images), or swin (chunks of frames, for actions that last).
        seed: Decides everything that is random.
        device: cpu or cuda; the best there is by default.
        resume: Continue from a checkpoint in the folder; without, begin anew and replace what is there.
        cluster: Ray cluster whose workers share every batch: auto, host:6379, ray://host:10001, or local for one here.
        workers: Processes that train, a GPU each where there are GPUs; with --cluster.
        shard: Split parameters, gradients and optimiser among the workers, to save memory; with --cluster.
    """
    from ..data import Dataset
    from ..engine import Alarm, calibrate

    if cluster is None and (workers is not None or shard):
        raise ConfigError("--workers and --shard are a cluster's: add --cluster local (or its address), or leave them.")
    folder = out or Path("runs") / data.name
    how: dict[str, Any] = {"budget": budget, "preset": preset, "seed": seed, "backbone": backbone, "decoder": decoder}
    how |= {"device": device, "resume": resume}
    if cluster is None:
        from ..training import train as train_here

        world = train_here(data, folder, **how)
    else:
        from ..cluster import train as train_there

        how |= {"workers": 2 if workers is None else workers, "shard": shard}
        world = train_there(data, folder, address=cluster, **how)
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
    from ..data import Dataset
    from ..learning import learn as learn_in
    from ..learning import returns
    from ..world import World

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
