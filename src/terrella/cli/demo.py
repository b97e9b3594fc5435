"""The whole loop at once, for newcomers."""

from __future__ import annotations

import os
from pathlib import Path

from .judge import evaluate
from .make import record, train
from .say import Say
from .use import play


def demo(env: str = "procgen/coinrun", budget: str = "6m", out: Path = Path("runs/demo"), port: int = 7860) -> None:
    """Go once around the loop: record a game, train a world of it, measure it, play it.

    With the environment variable DEMO_SERVE=0 it ends before serving.

    Args:
        env: Environment to learn.
        budget: How long to train.
        out: Folder for everything.
        port: Port of the page.
    """
    from ..evaluation import write_preview
    from ..world import World

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
