"""The command line: `terrella demo | record | train | learn | play | plan | evaluate | info`.

Each command is one call of the library. Mistakes of the user are told in a sentence, without a traceback.
"""

from __future__ import annotations

import os
from pathlib import Path

import tyro

from ..errors import TerrellaError
from .judge import evaluate, info
from .make import learn, record, train
from .say import Say, plain
from .use import plan, play


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


COMMANDS = {
    "demo": demo,
    "record": record,
    "train": train,
    "learn": learn,
    "play": play,
    "plan": plan,
    "evaluate": evaluate,
    "info": info,
}


def main(args: list[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    try:
        tyro.extras.subcommand_cli_from_dict(
            COMMANDS, prog="terrella", description="Learn a world from recordings, and live in it.", args=args
        )
    except TerrellaError as error:
        Say.print(f"[bold red]error:[/] {plain(error)}")
        return 1
    except KeyboardInterrupt:
        return 130
    return 0
