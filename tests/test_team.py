"""One world trained by two processes, joined on the loopback address: the world of one process, up to rounding.

Run as a script, this file is one of the two.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from test_training import PLACE, SPEC, make_dataset, one_thread, same_weights  # noqa: F401  (a fixture)

from terrella.data import Dataset
from terrella.errors import ConfigError, TrainingError
from terrella.nn.noise import Rows, drawn
from terrella.spec import WorldSpec
from terrella.training import TrainingConfig, loop, train, world_config
from terrella.training.checkpoint import load_checkpoint
from terrella.training.material import encode_episodes
from terrella.training.objective import clip_loss
from terrella.training.optim import Optimizer
from terrella.training.steps import Steps
from terrella.training.team import Team, require_shares
from terrella.world import World

PIXELS = WorldSpec({"pixels": SPEC.streams["pixels"]}, SPEC.action)
RECIPE = TrainingConfig(batch=4, length=4, tokenizer_batch=8, checkpoint_seconds=1e9, self_fed=0.5)
# Every random choice there is, and batches that two workers share unevenly while clips grow.
MUCH = replace(RECIPE, blind=0.2, action_dropout=0.2, growth=0.5, self_fed_depth=2)
PARTS: dict[str, dict[str, Any]] = {
    "shortcut": {},
    "masked": {"decoder": "masked"},
    "regression": {"decoder": "regression"},
    "residual": {"decoder": "residual"},
    "swin": {"decoder": "swin"},
    "rssm": {"backbone": "rssm"},
    "hybrid": {"backbone": "hybrid"},
    "reaction_diffusion": {"backbone": "reaction_diffusion"},
}
# Rows are summed in another order, which changes the last bits of a gradient. In the weights this grows: first steps of
# Adam are as long as its rate however small the gradient, and Muon orthogonalises in bfloat16. So it is measured by
# what other noise changes in the weights: about 0.004 of it is found for 16 steps.
CLOSE = 0.02


def run(folder: Path, out: Path | None, team: Team = Team(), **changes: Any) -> World:  # noqa: B008
    how = {"budget": "16steps", "preset": "debug", "seed": 3, "device": "cpu", "progress": False, "training": MUCH}
    return train(folder / "data", out, team=team, **(how | changes))


def apart(a: World, b: World) -> float:
    mine, theirs = a.state_dict(), b.state_dict()
    assert mine.keys() == theirs.keys()
    return sum(float((mine[k].double() - theirs[k].double()).square().sum()) for k in mine) ** 0.5


# one of the two


def after(steps: int) -> Callable[[], bool]:
    """Ask for a stop after so many steps."""
    left = iter(range(steps - 1))
    return lambda: next(left, None) is None


def held_by(optimizer: Optimizer) -> dict[str, int]:
    """Bytes of parameters and of what the optimiser remembers, in this process."""

    def local(tensor: Any) -> int:
        mine = tensor.to_local() if hasattr(tensor, "to_local") else tensor
        return mine.numel() * mine.element_size()

    return {
        "parameters": sum(local(p) for p in optimizer.parameters),
        "memory": sum(local(v) for part in optimizer.parts for s in part.state.values() for v in s.values()),
    }


def trains(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    Steps.precision = lambda self: nullcontext()
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    team, told = Team(rank, 2), {}
    stopped = lambda shard: Team(rank, 2, shard, after(9))  # noqa: E731  (in the middle of the second phase)
    optimizers: list[Optimizer] = []
    make = Optimizer.__init__
    Optimizer.__init__ = lambda self, *args, **how: optimizers.append(self) or make(self, *args, **how)

    run(folder, folder / "two", team)
    told["held"] = held_by(optimizers[1])
    world = run(folder, folder / "two-seconds", team, budget="1.5s")
    told["seconds"] = [world.record[key] for key in ("seconds", "tokenizer_steps", "dynamics_steps")]
    told["files"] = sorted(p.name for p in (folder / "two-seconds").rglob("*") if p.is_file())

    optimizers.clear()
    run(folder, folder / "sharded", Team(rank, 2, shard=True))
    told["sharded"] = held_by(optimizers[1])
    for shard in (False, True):
        try:
            run(folder, folder / f"stopped-{shard}", stopped(shard))
        except KeyboardInterrupt:
            told[f"stopped-{shard}"] = True
        torch.distributed.barrier()
        if rank == 0:
            for resumed in ("two", "one"):
                shutil.copytree(folder / f"stopped-{shard}", folder / f"{resumed}-resumed-{shard}")
        torch.distributed.barrier()
        run(folder, folder / f"two-resumed-{shard}", Team(rank, 2, shard))

    (folder / f"away-{rank}").mkdir()
    if rank == 0:
        shutil.copytree(folder / "stopped-False", folder / "away-0", dirs_exist_ok=True)
    try:
        run(folder, folder / f"away-{rank}", team)
    except TrainingError as error:
        told["away"] = str(error)

    plain = loop.clip_loss

    def spoilt(*args: Any) -> Any:
        value, parts = plain(*args)
        return value * (math.nan if rank == 1 and args[6] > 0.5 else 1.0), parts

    loop.clip_loss = spoilt
    try:
        run(folder, None, team)
    except TrainingError as error:
        told["spoilt"] = str(error)
    (folder / f"told-{rank}.json").write_text(json.dumps(told))


# what the two have done


@pytest.fixture(scope="module")
def two(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("team")
    make_dataset(folder / "data")
    env = os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "TORCH_CPP_LOG_LEVEL": "ERROR"}
    argv = [sys.executable, __file__, str(folder)]
    both = [
        subprocess.Popen([*argv, str(rank)], env=env, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    try:
        said = [process.communicate(timeout=240) for process in both]
    finally:
        for process in both:
            process.kill()
    assert [process.returncode for process in both] == [0, 0], "\n".join(err for _, err in said)
    return folder


@pytest.fixture(scope="module")
def told(two) -> list[dict[str, Any]]:
    return [json.loads((two / f"told-{rank}.json").read_text()) for rank in range(2)]


@pytest.fixture
def exact(monkeypatch):
    """No bfloat16 but in Muon, as in the two."""
    monkeypatch.setattr(Steps, "precision", lambda self: nullcontext())


@pytest.fixture(scope="module")
def alone(two) -> World:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Steps, "precision", lambda self: nullcontext())
        return run(two, None)


@pytest.fixture(scope="module")
def far(two, alone) -> float:
    """How far apart weights are that began as these did, and had other clips and noise."""
    begin = torch.Generator.manual_seed
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Steps, "precision", lambda self: nullcontext())
        patch.setattr(Team, "stream", lambda self, device, seed: begin(torch.Generator(device), seed + 1))
        return apart(alone, run(two, None))


def test_two_processes_make_the_world_of_one(two, alone, far):
    together = World.load(two / "two")
    assert apart(alone, together) < CLOSE * far
    assert together.record["dynamics_held_out"] == pytest.approx(alone.record["dynamics_held_out"], abs=1e-4)
    assert together.record["training"] == alone.record["training"]


def test_shards_make_the_same_world_and_take_half_the_memory(two, told, far):
    assert apart(World.load(two / "sharded"), World.load(two / "two")) < CLOSE * far
    for mine in told:
        for what in ("parameters", "memory"):
            assert 0.45 * mine["held"][what] < mine["sharded"][what] < 0.55 * mine["held"][what], what


def test_a_budget_in_seconds_ends_at_the_same_step(two, told):
    assert told[0]["seconds"] == told[1]["seconds"]
    seconds, *steps = told[0]["seconds"]
    assert 1.0 < seconds < 6
    assert min(steps) > 0


def test_only_the_first_writes(told):
    assert len([name for name in told[0]["files"] if name.startswith("events.")]) == 1


@pytest.mark.parametrize("shard", [False, True])
def test_who_stops_goes_on_as_two_or_as_one(two, told, exact, far, shard):
    assert all(mine[f"stopped-{shard}"] for mine in told)
    _, about = load_checkpoint(two / f"stopped-{shard}" / "checkpoint.safetensors")
    assert (about["phase"], about["step"]) == ("dynamics", 5)
    whole = World.load(two / ("sharded" if shard else "two"))
    assert same_weights(World.load(two / f"two-resumed-{shard}"), whole)
    one = two / f"one-resumed-{shard}"
    assert apart(run(two, one), whole) < CLOSE * far
    assert not list(one.glob("checkpoint*"))


def test_a_checkpoint_that_only_some_find_is_refused(told):
    assert all("folder that all machines share" in mine["away"] for mine in told)


def test_a_loss_that_is_not_finite_anywhere_ends_all_at_the_same_step(told):
    assert "the loss is nan at step" in told[0]["spoilt"]
    assert told[0]["spoilt"] == told[1]["spoilt"]


# without a second process


@pytest.mark.parametrize("name", PARTS)
def test_gradients_of_the_shares_are_that_of_the_batch(tmp_path, name):
    """Seven rows among three workers, in single precision; all that is random is drawn as for the batch."""
    recipe = replace(MUCH, length=8, growth=0.0, **({"self_fed": 0.0} if name == "swin" else {"self_fed": 1.0}))
    torch.manual_seed(0)
    world = World(PIXELS, world_config("debug", PIXELS, **{"decoder": None, "backbone": None, **PARTS[name]}))
    for p in world.parameters():
        p.data += 0.05 * torch.randn_like(p)  # heads begin as zeros
    clips = encode_episodes(make_dataset(tmp_path / "data", PIXELS, 4), world, "train", 8, torch.device("cpu"))

    def gradients(team: Team) -> tuple[torch.Tensor, torch.Tensor]:
        world.zero_grad()
        streams = [team.stream(torch.device("cpu"), seed) for seed in (1, 2)]
        first, last, count = rows = team.rows(7)
        for stream in streams:
            if isinstance(stream, Rows):
                stream.share = rows
        batch = clips.sample(last - first, streams[0], torch.device("cpu"))
        value, _ = clip_loss(world, recipe, *batch, 0.5, streams[1])
        value.backward()
        whole = torch.cat([p.grad.flatten() for p in world.parameters() if p.grad is not None])
        return (last - first) / count * value.detach(), (last - first) / count * whole

    value, whole = gradients(Team())
    parts = [gradients(Team(rank, 3)) for rank in range(3)]
    assert sum(v for v, _ in parts) == pytest.approx(float(value), rel=1e-5)
    apart = torch.stack([g for _, g in parts]).sum(0) - whole
    assert float(apart.norm() / whole.norm()) < 1e-5


def test_rows_of_all_workers_are_what_one_draws():
    for count, axis, each in ((8, 0, 1), (7, 1, 3)):
        shape = [2, 2, 5]
        shape[axis] = count * each
        whole = torch.randn(shape, generator=torch.Generator().manual_seed(1))
        parts = []
        for rank in range(3):
            stream = Team(rank, 3).stream(torch.device("cpu"), 1)
            assert isinstance(stream, Rows)
            first, last, _ = stream.share = Team(rank, 3).rows(count)
            shape[axis] = (last - first) * each
            parts.append(drawn(torch.randn, shape, stream, axis))
        assert torch.equal(torch.cat(parts, axis), whole)


@pytest.mark.parametrize(
    ("changes", "workers", "shard", "says"),
    [
        ({"batch": 5}, 2, False, "batch is 5.*batch=4.*divides 5"),
        ({"tokenizer_batch": 32}, 3, False, "tokenizer_batch=33"),
        ({"recycled": 0.2}, 2, False, "recycled"),
        ({"spectral": 1.0}, 2, True, "spectral"),
    ],
)
def test_recipes_that_cannot_be_shared_are_refused(changes, workers, shard, says):
    recipe = TrainingConfig(**{"batch": 12, "tokenizer_batch": 36, **changes})
    with pytest.raises(ConfigError, match=says):
        require_shares(recipe, workers, shard)
    require_shares(recipe, 1)


def test_a_batch_that_cannot_be_shared_is_refused_before_any_work(tmp_path):
    data = make_dataset(tmp_path / "data", PLACE, episodes=3, length=6)
    with pytest.raises(ConfigError, match="batch is 5"):
        train(data, tmp_path / "w", training=TrainingConfig(batch=5), team=Team(0, 2), progress=False)
    assert isinstance(data, Dataset)
    assert not (tmp_path / "w").exists()


def test_a_world_that_cannot_be_split_is_refused_before_any_work(tmp_path):
    data = make_dataset(tmp_path / "data", PLACE, episodes=3, length=6)
    parts = world_config("debug", PLACE)
    remembers = replace(parts.dynamics, config={**parts.dynamics.config, "history": 8, "fetch": 2})
    how = {"config": replace(parts, dynamics=remembers), "training": RECIPE, "progress": False}
    with pytest.raises(ConfigError, match="sharpness is a single number"):
        train(data, tmp_path / "w", team=Team(0, 2, shard=True), **how)
    assert not (tmp_path / "w").exists()


@pytest.mark.parametrize("how", [(0, 0), (2, 2), (-1, 2), (0, 1, True)])
def test_teams_that_there_cannot_be_are_refused(how):
    with pytest.raises(ConfigError):
        Team(*how)


if __name__ == "__main__":
    trains(int(sys.argv[2]), Path(sys.argv[1]))
