"""Record, train, measure and export the worlds that ship with the package, and one that is not good enough to.

    python benchmarks/train_gallery.py coinrun pong          # into src/terrella/gallery
    python benchmarks/train_gallery.py coinrun --seed 1 --out runs/gallery
    python benchmarks/train_gallery.py pucks told-grid       # into runs/gallery

An interrupted run goes on where it stood. Each world gets weights in float16, a card and a moving preview.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from common import recorded_by
from PIL import Image, ImageSequence

import terrella
from terrella.data import Cover, Dataset, Policy, Speak, StickyRandom, WallWalk
from terrella.evaluation import write_preview
from terrella.spec import WorldSpec
from terrella.training import TrainingConfig, train
from terrella.training.presets import WITHIN, alone, training_config, world_config
from terrella.world import GALLERY, Part, World, WorldConfig

WORK = Path("runs/gallery-work")
UNSHIPPED = Path("runs/gallery")


@dataclass(frozen=True)
class Recipe:
    """How one gallery world comes about. `failures` are what a person saw go wrong, in words.

    policy: who records and is measured, and `acts` says it in words; by: who records in place of it, one after another,
    and how many transitions. decoder and text, or config, and training: in place of the preset's; tokenizers, adjust:
    what differs from the preset's settings of a stream's tokenizer, and from its training. views: streams drawn from
    the others. shipped: whether the world comes with the package; else it is made for benchmarks alone.
    """

    env: str
    title: str
    record: dict[str, Any]
    budget: str
    failures: str
    preset: str = "tiny"
    reencode: bool = False
    policy: Callable[[], Policy] | None = None
    acts: str = "a sticky-random policy (each random action repeated a few steps)"
    by: tuple[tuple[str, int], ...] = ()
    decoder: str | None = None
    text: Part | None = None
    tokenizers: dict[str, dict[str, Any]] = field(default_factory=dict)
    views: dict[str, Part] = field(default_factory=dict)
    config: WorldConfig | None = None
    training: TrainingConfig | None = None
    adjust: dict[str, Any] = field(default_factory=dict)
    shipped: bool = True

    @property
    def kwargs(self) -> dict[str, Any]:
        """What of `record` is for the environment."""
        how = ("steps", "episodes", "max_episode_steps")
        return {key: value for key, value in self.record.items() if key not in how}

    def parts(self, spec: WorldSpec, preset: str | None = None, decoder: str | None = None) -> dict[str, Any]:
        """Return the arguments of `train` that say what is made and how, with another preset or decoder if given."""
        preset, decoder = preset or self.preset, decoder or self.decoder
        config = self.config or replace(world_config(preset, spec, decoder, views=self.views), text=self.text)
        training = self.training or training_config(preset, decoder=decoder, spec=spec.without(self.views))
        own = {s: Part(p.name, p.config | self.tokenizers.get(s, {})) for s, p in config.tokenizers.items()}
        config, training = replace(config, tokenizers=own), replace(training, **self.adjust)
        return {"preset": preset, "config": config, "training": training}


def remembers(backbone: Part, patch: int) -> WorldConfig:
    """A world that goes on by its memory alone: what it dreamed is not written back."""
    return WorldConfig(backbone, Part("regression"), {"pixels": Part("patches", {"size": patch})}, dream_level=0.0)


# What sentences lead to is certain, and a decoder without noise learns it in a fraction of the steps: behind noise,
# most of a frame is read off the frame itself, and little is left for the sentence to say. A tenth of all actions is
# withheld, so that what a sentence adds can be strengthened (`Engine(guidance=...)`). A sentence is the sum of its
# words: what each says is then learned once for all the company it may come in, and serves where that is new.
TOLD: dict[str, Any] = {
    "policy": Speak,
    "decoder": "regression",
    "acts": "one who asks for what can be done, and one who wanders and is described afterwards",
    "reencode": True,
    "text": Part("words", {"layers": 0}),
}

RECIPES = {
    "coinrun": Recipe(
        "procgen/coinrun",
        "CoinRun (procgen): run and jump through a scrolling level",
        {"steps": 60_000, "max_episode_steps": 500},
        "4000steps",
        "What scrolls into view is invented, and forgotten a dozen frames after it has left: walk away and back, and "
        "the level is another. Background pictures fade to a smooth sky within tens of frames; crates and saws blur "
        "where they come in at the edge.",
    ),
    "ninja": Recipe(
        "procgen/ninja",
        "Ninja (procgen): leap from ledge to ledge; plain backgrounds, one theme",
        {"steps": 50_000, "max_episode_steps": 500, "use_backgrounds": False, "restrict_themes": True},
        "3000steps",
        "Ledges, walls and the level's shape are invented once they have scrolled out and back; bombs, thrown stars "
        "and spikes blur and often vanish; new ledges come in grey and sharpen only later. Without re-encoding "
        "its frames half of the sessions drift to white within 300.",
        reencode=True,
    ),
    "pong": Recipe(
        "ALE/Pong-v5",
        "Pong (Atari 2600)",
        {"steps": 50_000, "size": 64},
        "4000steps",
        "The player's paddle can stay away for hundreds of frames after it has left the screen at the top or bottom, "
        "because nothing visible tells where it is. After about 16 frames the ball follows another path than the true "
        "one.",
    ),
    "pendulum": Recipe(
        "Pendulum-v1",
        "Pendulum: swing it up with a torque; three numbers, one continuous action",
        {"steps": 30_000},
        "4000steps",
        "Predictions part from the truth after about 20 steps when the pendulum passes its unstable top. The three "
        "numbers are not forced onto the circle cos^2 + sin^2 = 1.",
        training=TrainingConfig(),  # with noise on the past, which vectors do better without
    ),
    "sprites": Recipe(
        "terrella/Sprites-v0",
        "Sprites: three digits drift over a torus four times the window; look away, and they go on",
        {"episodes": 4000, "max_episode_steps": 39, "world": 32, "window": 16},
        "1000steps",
        "Where two digits overlap, strokes of one can be lost for some frames. Faint specks of a wrong velocity stay "
        "in the map. What was not in view during the first 30 frames is empty until it is seen; things that drift by "
        "more than a pixel a frame in an axis have no map that keeps them.",
        policy=lambda: Cover(30),
        acts="a camera that sees the whole world within 30 frames, then wanders",
        config=remembers(Part("flow"), 1),
        training=alone(TrainingConfig(batch=8, reward_weight=0.0, end_weight=0.0), 30, 10),
    ),
    "blocks": Recipe(
        "terrella/Blocks-v0",
        "Blocks: a room in the first person; turn round, and the blocks behind you go on",
        {"episodes": 2000, "max_episode_steps": 59, "room": 8, "count": (3, 4)},
        "20m",
        "A wall stops the true viewer and not this one: each step forward counts, so whoever walks into a wall is a "
        "step off from then on. Colours and places of blocks that were seen for a frame or two can be wrong, and where "
        "blocks cross out of view one can take the other's way. What was not seen in the first 40 frames is a guess.",
        policy=WallWalk,
        acts="a viewer who follows the walls, looks at the room and crosses it",
        config=remembers(Part("flow_wedge", {"reach": 8, "side": 11, "features": 24, "dim": 96}), 8),
        training=alone(TrainingConfig(batch=4, reward_weight=0.0, end_weight=0.0, **WITHIN), 40, 20),
    ),
    # As scenes of the atomic dimensions are: one disc to eight, light and dull, of equal mass, that nothing slows down.
    "pucks": Recipe(
        "terrella/Pucks-v0",
        "Pucks: discs glide, bounce and are pushed over a table",
        {"episodes": 2000, "max_episode_steps": 30, "count": (1, 8), "mass": (1.0, 1.0), "drag": 0.0}
        | {"radius": (0.05, 0.115), "restitution": (0.0, 1.0)},
        "6000steps",
        "Discs glide on for a few frames, then slow down, melt into their neighbours and stay; small ones shrink away "
        "within twenty frames. What comes of a collision is lost, and so is what the keys do after a few frames.",
        reencode=True,
        policy=lambda: StickyRandom(rest=0.5),
        acts="a sticky-random policy that does nothing half of the time",
        training=TrainingConfig(reward_weight=0.0, end_weight=0.0),
        shipped=False,
    ),
    # Worlds that follow sentences, for benchmarks/sentences.py. Many short episodes, since each has things of its own.
    # What they know of a frame is what is measured of it, and their picture is drawn from that.
    "told-grid": Recipe(
        "terrella/SentencesGrid-v0",
        "Told: a room with three things, and somebody who does what you say",
        {"max_episode_steps": 120, "sensors": True, "highlight": False},
        "7000steps",
        "About one sentence in eight leads elsewhere than it should (`docs/language.md`). In up to two of a hundred "
        "frames the walker stands on a thing, which nobody can, and he rests somewhat more than the true one.",
        by=(("speak", 160_000), ("hindsight", 20_000)),
        views={"pixels": Part("field", {"patch": 8})},
        tokenizers={"sensors": {"side": 1}},
        adjust={"action_dropout": 0.1, "batch": 16}
        | {"tokenizer_batch": 64, "tokenizer_lr": 5e-3, "tokenizer_share": 0.43},
        **TOLD,
    ),
    # Discs glide where they like: what goes wrong a little at each frame never comes right by itself. So its backbone
    # learns from what it makes of its own frames (numbers alone have no noise on their past, either).
    "told-pucks": Recipe(
        "terrella/SentencesPucks-v0",
        "Told: discs on a table, and a white one that does what you say",
        {"max_episode_steps": 120, "sensors": True},
        "7000steps",
        "",
        by=(("speak", 80_000), ("hindsight", 10_000)),
        views={"pixels": Part("field", {"group": 2})},
        adjust={"action_dropout": 0.1, "batch": 32, "self_fed": 0.4, "self_fed_depth": 4}
        | {"tokenizer_batch": 64, "tokenizer_lr": 5e-3, "tokenizer_share": 0.43},
        shipped=False,
        **TOLD,
    ),
}

HORIZONS = (1, 2, 4, 8, 16, 32)
IN_DOCS = ("coinrun", "sprites", "blocks")


def build(name: str, seed: int, out: Path | None) -> Path:
    """Make one world, in the gallery or in `out`; returns its folder."""
    recipe = RECIPES[name]
    out = out or (GALLERY if recipe.shipped else UNSHIPPED)
    data = WORK / name
    dataset = record(recipe, data)
    work = WORK / f"{name}-{seed}"
    if not (work / "world.json").exists():
        train(dataset, work, budget=recipe.budget, seed=seed, name=name, **recipe.parts(dataset.spec))
    return export(name, World.load(work), out / (name if seed == 0 else f"{name}-seed{seed}"))


def record(recipe: Recipe, folder: Path) -> Dataset:
    """Record the dataset of a recipe, always the same one, as far as that has not been done."""
    how, policy = dict(recipe.record), recipe.policy() if recipe.policy else "sticky-random"
    unit = "episodes" if "episodes" in how else "steps"
    return recorded_by(recipe.env, folder, recipe.by or [(policy, how.pop(unit))], unit, seed=1000, **how)


def acting(name: str) -> dict[str, Any]:
    """How `evaluate` acts in a world: a policy that must have seen everything before the future, from the reset on."""
    recipe = RECIPES.get(name)
    return {"policy": recipe.policy(), "lead": 0} if recipe and recipe.policy else {}


def export(name: str, world: World, folder: Path) -> Path:
    """Write weights in half precision, measure what was written, and add card and preview."""
    recipe = RECIPES[name]
    if folder.exists():
        shutil.rmtree(folder)
    world.config = replace(world.config, reencode=recipe.reencode)
    world.save(folder, half=True)
    world = World.load(folder)
    report = terrella.evaluate(world, episodes=64, horizons=HORIZONS, long=0, seed=0, **acting(name))
    stream = next(iter(report["streams"].values()))
    world.card = {
        "title": recipe.title,
        "unit": stream["unit"],
        "horizons": list(HORIZONS),
        "mse": stream["mse"]["mean"],
        "mse_copy_last": stream["copy_last"]["mean"],
        "action_ratio": stream["action_ratio"]["mean"],
        "episodes": report["episodes"],
        "failures": recipe.failures,
    }
    world.save(folder, half=True)
    (folder / "card.md").write_text(card(recipe, world, report))
    write_preview(world, folder / "preview.webp", policy=acting(name).get("policy", "sticky-random"))
    if folder.parent == GALLERY and name in IN_DOCS:
        to_gif(folder / "preview.webp", Path(__file__).parent.parent / "docs" / f"{name}.gif")
    return folder


def to_gif(source: Path, target: Path) -> None:
    """Write an animated picture again as a GIF, which every README viewer shows."""
    with Image.open(source) as film:
        frames = [frame.convert("RGB").quantize(128) for frame in ImageSequence.Iterator(film)]
        duration = film.info.get("duration") or 1000 // 15
    frames[0].save(target, save_all=True, append_images=frames[1:], duration=duration, loop=0)


def card(recipe: Recipe, world: World, report: dict[str, Any]) -> str:
    """Write what a person should know of a world, in Markdown."""
    made, stream = world.record, next(iter(report["streams"].values()))
    rows = [
        f"| {h} | {e:.5f} | {c:.5f} | {e / c:.2f} | {a:.2f} |"
        for h, e, c, a in zip(
            report["horizons"], stream["mse"]["mean"], stream["copy_last"]["mean"], stream["action_ratio"]["mean"]
        )
    ]
    counts = ", ".join(f"{k} {v:,}" for k, v in world.parameters_by_part().items() if v)
    data = made["dataset"]
    options = "".join(f", {k} {v}" for k, v in world.spec.env.kwargs.items())
    lines = [
        f"# {recipe.title}",
        "",
        "![truth and dream under the same actions](preview.webp)",
        "",
        f"- **Data**: `{recipe.env}`{options}, {data['steps']:,} transitions in {data['episodes']} episodes of "
        f"{recipe.acts}; a tenth of the episodes held out.",
        f"- **Recipe**: {_parts(recipe, world)}, seed {made['seed']}, {recipe.budget}, "
        f"{made['seconds'] / 60:.0f} minutes on one {made['device']} thread; parameters: {counts}. "
        f"Command: `python benchmarks/train_gallery.py {world.name}`.",
        f"- **Measured** on {report['episodes']} fresh episodes, begun "
        + (f"within their first {report['lead']} steps" if report["lead"] else f"after {report['context']} steps")
        + ", against the true environment from the "
        f"same states under the same actions ({stream['unit']}):",
        "",
        "| horizon | error | copy-last | of copy-last | shuffled actions / true |",
        "|---:|---:|---:|---:|---:|",
        *rows,
        "",
        f"- **Known failures**: {recipe.failures or 'see the numbers above.'}",
        "",
    ]
    return "\n".join(lines)


def _parts(recipe: Recipe, world: World) -> str:
    if recipe.config is None:
        return f"preset `{recipe.preset}`" + (f", decoder `{recipe.decoder}`" if recipe.decoder else "")
    seen, clip = world.record["training"]["seen"], world.record["training"]["length"] + 1
    return f"backbone `{world.config.dynamics.name}`, clips of {clip} frames of which {seen} are seen"


def main() -> None:
    """Read the command line and build."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    shipped = [name for name, recipe in RECIPES.items() if recipe.shipped]
    parser.add_argument("worlds", nargs="*", choices=[*RECIPES, []], default=shipped)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="default: the package's gallery, runs/gallery for what is not shipped")
    parser.add_argument("--threads", type=int, default=None)
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    for name in options.worlds:
        print(build(name, options.seed, options.out))


if __name__ == "__main__":
    main()
