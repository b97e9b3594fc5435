"""Write the README's tables from the JSON that the benchmarks left in `benchmarks/results`.

python benchmarks/gallery.py --json benchmarks/results/gallery.json
python benchmarks/rollout.py --json benchmarks/results/rollout.json
python benchmarks/dataset.py --json benchmarks/results/dataset.json
python benchmarks/tables.py
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
SHOWN = (1, 8, 32)


def gallery(rows: list[dict[str, Any]]) -> str:
    """One line a world and seed: error as a share of copy-last, and the action ratio."""
    lines = [
        "| world | environment | seed | error / copy-last at 1, 8, 32 | worst to 32 | shuffled / true actions at 8 |",
        "|---|---|---:|---:|---:|---:|",
    ]
    for row in rows:
        share = {h: e / c for h, e, c in zip(row["horizons"], row["mse"], row["mse_copy_last"]) if e is not None and c}
        ratio = dict(zip(row["horizons"], row["action_ratio"]))
        worst = max(v for h, v in share.items() if h <= 32)
        marks = ", ".join(f"{share[h]:.2f}" for h in SHOWN)
        lines.append(f"| {row['world']} | {row['env']} | {row['seed']} | {marks} | {worst:.2f} | {ratio[8]:.1f} |")
    return "\n".join(lines)


def rollout(result: dict[str, Any]) -> str:
    """What a step costs."""
    rows = [
        ("frames a second, one session, 2 denoising steps", f"{result['fps_1']:.0f}"),
        ("frames a second, 16 sessions in a batch, all together", f"{result['fps_16']:.0f}"),
        ("32 frames recomputed at each network call / a cached step", f"{result['recompute_ratio']:.1f}"),
        ("the same, the window's keys computed once a frame", f"{result['recompute_once_ratio']:.1f}"),
        ("the same, only the new frame denoised", f"{result['recompute_keys_ratio']:.1f}"),
        ("time of frame 2,000 / frame 200", f"{result['late_over_early']:.3f}"),
        ("bytes of a state at frame 200, at 2,000", f"{result['state_bytes_early']:,}, {result['state_bytes_late']:,}"),
        ("64 branches / 64 copies: bytes, time", f"{result['fork_bytes_ratio']:.4f}, {result['fork_time_ratio']:.4f}"),
    ]
    return _table("the `tiny` preset at 64x64 (`python benchmarks/rollout.py`)", rows)


def dataset(result: dict[str, Any]) -> str:
    """What sampling clips costs."""
    rows = []
    for name in ("terrella", "hdf5", "memmap"):
        rows.append((name, f"{result['clips_per_s'][name]:,.0f} | {result['bytes'][name] / 1e6:.0f} MB"))
    head = "| random 16-frame clips (`python benchmarks/dataset.py`) | clips a second | at rest |\n|---|---:|---:|\n"
    return head + "\n".join(f"| {k} | {v} |" for k, v in rows)


def _table(title: str, rows: list[tuple[str, str]]) -> str:
    return f"| {title} | |\n|---|---:|\n" + "\n".join(f"| {k} | {v} |" for k, v in rows)


def replace(text: str, name: str, table: str) -> str:
    """Put a table between its two comments."""
    pattern = rf"(<!-- {name} -->\n).*?(<!-- end -->)"
    if not re.search(pattern, text, re.S):
        raise SystemExit(f"README.md has no place '<!-- {name} -->' ... '<!-- end -->'.")
    return re.sub(pattern, lambda m: f"{m[1]}{table}\n{m[2]}", text, count=1, flags=re.S)


def main() -> None:
    """Rewrite the README's tables."""
    readme = ROOT / "README.md"
    text = readme.read_text()
    for name, make in (("gallery", gallery), ("rollout", rollout), ("dataset", dataset)):
        text = replace(text, name, make(json.loads((RESULTS / f"{name}.json").read_text())))
    readme.write_text(text)


if __name__ == "__main__":
    main()
