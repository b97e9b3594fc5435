"""What every benchmark shares: its arguments, what it ran on, and how the result is written.

A benchmark prints one JSON object with hardware, commit, seeds and raw values; tables are made from it. Timings say
something as ratios within one run only.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


def arguments(description: str | None, *, seed: int = 0) -> argparse.ArgumentParser:
    """Return a parser that knows `--json FILE` and `--seed N`; add what else a benchmark needs."""
    parser = argparse.ArgumentParser(description=(description or "").strip().split("\n")[0])
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result here as well as printing it")
    parser.add_argument("--seed", type=int, default=seed, help=f"random seed (default {seed})")
    return parser


def hardware() -> dict[str, Any]:
    """Describe the machine and the versions that matter to a timing."""
    found: dict[str, Any] = {
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "usable_cores": len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count(),
        "load_1min": round(os.getloadavg()[0], 2) if os.name == "posix" else None,
        "memory_gb": _memory_gb(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in ("torch", "numpy", "gymnasium", "zstandard", "pyarrow")},
    }
    if "torch" in sys.modules:
        import torch

        found["torch_threads"] = torch.get_num_threads()
        found["gpu"] = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return found


def commit() -> dict[str, Any]:
    """Return the commit of this checkout, and whether files differ from it."""
    return {"hash": _git("rev-parse", "HEAD"), "changed_files": len(_git("status", "--porcelain").splitlines())}


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


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _memory_gb() -> float | None:
    if sys.platform != "linux":
        return None
    return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _git(*words: str) -> str:
    try:
        return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""
