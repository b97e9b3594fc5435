"""What every benchmark shares: its arguments, what it ran on, and how the result is written.

A benchmark prints one JSON object with hardware, commit, seeds and raw values; tables are made from it. Timings say
something as ratios within one run only.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from terrella.evaluation.provenance import commit, hardware

__all__ = ["arguments", "commit", "hardware", "median", "write_json"]
ROOT = Path(__file__).resolve().parent.parent


def arguments(description: str | None, *, seed: int = 0) -> argparse.ArgumentParser:
    """Return a parser that knows `--json FILE` and `--seed N`; add what else a benchmark needs."""
    parser = argparse.ArgumentParser(description=(description or "").strip().split("\n")[0])
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result here as well as printing it")
    parser.add_argument("--seed", type=int, default=seed, help=f"random seed (default {seed})")
    return parser


def write_json(result: dict[str, Any], path: Path | None = None, *, seeds: Any = None) -> None:
    """Print a result with hardware, commit and seeds, and write it to `path` if there is one."""
    whole = {**result, "seeds": seeds, "hardware": hardware(), "commit": commit(), "command": _command()}
    text = json.dumps(whole, indent=1)
    print(text)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")


def median(values: list[float]) -> float:
    """Return the middle value, the mean of the two middle ones for an even number."""
    ordered, half = sorted(values), len(values) // 2
    return ordered[half] if len(values) % 2 else (ordered[half - 1] + ordered[half]) / 2


def _command() -> str:
    script = Path(sys.argv[0]).resolve()
    shown = script.relative_to(ROOT) if script.is_relative_to(ROOT) else script.name
    return " ".join(["python", str(shown), *sys.argv[1:]])
