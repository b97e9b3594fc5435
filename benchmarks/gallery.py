"""Measure every world of the gallery against its environment and print one row a world as JSON.

    python benchmarks/gallery.py --json gallery.json --also runs/seed1 runs/seed2

Each row holds `world`, `seed` and one list entry a horizon: `mse`, `mse_copy_last`, `mse_ceiling`, `action_ratio`, with
95 % intervals; then n, skill, SSIM, events, long rollout, hardware and commit. `--also` names folders of worlds trained
from other seeds; a folder is a world itself or holds worlds.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from common import commit, hardware
from train_gallery import acting

from terrella.evaluation import evaluate
from terrella.world import World

EVERY = tuple(range(1, 33))
FAR = (64, 128, 256, 500)


def row(world: World, report: dict[str, Any]) -> dict[str, Any]:
    """One flat row of a report; the first image stream, or the first stream, stands for the world."""
    streams = report["streams"]
    name = next((n for n, t in streams.items() if t["kind"] == "image"), next(iter(streams)))
    table = streams[name]
    return {
        "world": report["world"],
        "env": report["env"],
        "seed": training_seed(world),
        "stream": name,
        "unit": table["unit"],
        "context": report["context"],
        "horizons": report["horizons"],
        "n": table["n"],
        "mse": table["mse"]["mean"],
        "mse_interval": table["mse"]["interval"],
        "mse_copy_last": table["copy_last"]["mean"],
        "mse_floor": table["floor"]["mean"],
        "mse_ceiling": [table["ceiling"]] * len(report["horizons"]),
        "mse_other_episode": table["other_episode"]["mean"],
        "skill": table["skill"],
        "half_skill_horizon": table["half_skill_horizon"],
        "action_ratio": table["action_ratio"]["mean"],
        "action_ratio_interval": table["action_ratio"]["interval"],
        "action_differs": report["action_differs"],
        "ssim": table["ssim"]["mean"] if "ssim" in table else None,
        "ssim_copy_last": table["copy_last_ssim"]["mean"] if "ssim" in table else None,
        "events": report["events"],
        "long": report["long"],
        "speed": report["speed"],
        "environment_frames_per_second": report["environment_frames_per_second"],
        "summary": report["summary"],
        "parameters": sum(p.numel() for p in world.parameters()),
        "raw": table["raw"],
        "evaluation_seed": report["seed"],
        "hardware": hardware(),
        "commit": commit(),
    }


def training_seed(world: World) -> int | None:
    """The seed a world was trained from, where its record tells."""
    for part in (world.record, world.card):
        if isinstance(part, dict) and isinstance(part.get("seed"), int):
            return part["seed"]
    return None


def worlds(names: str | None, also: list[Path]) -> list[str]:
    """Gallery names (all, or the comma-separated `names`) and the world folders in or at `also`."""
    found = World.list_gallery() if names is None else [n for n in names.split(",") if n]
    for folder in also:
        inner = [folder] if (folder / "world.json").exists() else sorted(p.parent for p in folder.glob("*/world.json"))
        if not inner:
            sys.exit(f"{folder} holds no world.json and no folder with one.")
        found += [str(p) for p in inner]
    return found


def write(rows: list[dict[str, Any]], path: Path) -> None:
    """Write the rows, whole or not at all. The list is the top level: one world a row, each with its own provenance."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(rows, indent=1) + "\n")
    part.replace(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the rows to this file; default: print them")
    parser.add_argument("--worlds", help="names of gallery worlds, separated by commas; default all")
    parser.add_argument("--also", type=Path, nargs="*", default=[], help="folders of further worlds")
    parser.add_argument("--episodes", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--pages", type=Path, help="write each world's report page into a folder under this one")
    parser.add_argument("--quick", action="store_true", help="8 episodes, horizons to 32, a long rollout of 128 frames")
    options = parser.parse_args()
    rows = []
    for number, path in enumerate(worlds(options.worlds, options.also)):
        world = World.load(path)
        report = evaluate(
            world,
            episodes=min(8, options.episodes) if options.quick else options.episodes,
            horizons=EVERY if options.quick else EVERY + FAR,
            seed=options.seed,
            long=128 if options.quick else 512,
            out=options.pages / f"{number:02d}-{Path(path).name}" if options.pages else None,
            **acting(world.name),
        )
        rows.append(row(world, report))
        for line in report["summary"]["warnings"] + report["summary"]["findings"]:
            print(f"{report['world']}: {line}", file=sys.stderr)
        if options.json:  # after every world: an interrupted run keeps what it has
            write(rows, options.json)
    if not options.json:
        print(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
