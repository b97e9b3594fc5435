"""The command line: `terrella demo | record | label | train | align | learn | play | serve | plan | evaluate | audit |
info`.

Each command is one call of the library. Mistakes of the user are told in a sentence, without a traceback.
"""

from __future__ import annotations

import tyro

from ..errors import TerrellaError
from .demo import demo
from .judge import audit, evaluate, info
from .make import learn, record, train
from .say import Say, plain
from .unlabelled import align, label
from .use import plan, play, serve

COMMANDS = {
    "demo": demo,
    "record": record,
    "label": label,
    "train": train,
    "align": align,
    "learn": learn,
    "play": play,
    "serve": serve,
    "plan": plan,
    "evaluate": evaluate,
    "audit": audit,
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
