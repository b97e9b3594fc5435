"""The README's Python example and commands, run as they stand (only shorter)."""

import contextlib
import os
import re
import shlex
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
SHORTER = {"--steps 60000": "--steps 1500", "--budget 20m": "--budget 40steps --preset debug"}


def blocks(language: str) -> list[str]:
    fences = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.M | re.S)
    return [text for found, text in fences if found == language]


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}


def test_the_python_example_runs(tmp_path):
    (example,) = blocks("python")
    script = tmp_path / "example.py"
    script.write_text(
        example.replace('budget="20s"', 'budget="5s"') + "\nassert frame.observation['vector'].shape == (16, 4)\n"
    )
    done = subprocess.run(
        [sys.executable, script], cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "runs/cartpole/report/report.html").exists()
    assert (tmp_path / "runs/cartpole/world.json").exists()


def commands() -> list[list[str]]:
    block = next(b for b in blocks("") if "terrella record" in b)
    lines = [line.split("#")[0].strip() for line in block.splitlines() if line.startswith("terrella")]
    for long, short in SHORTER.items():
        lines = [line.replace(long, short) for line in lines]
    return [shlex.split(line) for line in lines]


@pytest.mark.timeout(400)
def test_the_commands_run_one_after_another(tmp_path):
    pytest.importorskip("procgen")
    listed = commands()
    assert [c[1] for c in listed] == ["record", "train", "evaluate", "play", "info"]
    for command in listed:
        args = [sys.executable, "-m", "terrella.cli", *command[1:]]
        if command[1] == "play":
            answers([*args, "--port", "0"], tmp_path)
            continue
        if command[1] == "evaluate":
            args += ["--episodes", "2"]
        done = subprocess.run(args, cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=200)
        assert done.returncode == 0, f"{command}: {done.stderr}"
    assert (tmp_path / "runs/coinrun/report/report.html").stat().st_size > 10_000


def answers(args: list[str], folder: Path) -> None:
    """Start a server and fetch its page."""
    process = subprocess.Popen(args, cwd=folder, env=environment(), stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        text, deadline = "", time.monotonic() + 60
        while "http://" not in text and time.monotonic() < deadline:
            text += process.stderr.readline()
        address = re.search(r"http://\S+", text)
        assert address, text
        page = urllib.request.urlopen(address[0], timeout=10).read().decode()
        assert "<title>Terrella" in page
        assert "main.js" in page
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(10)


def test_the_tree_names_what_there_is():
    tree = next(b for b in blocks("") if "src/terrella/" in b)
    for name in re.findall(r"^  ([a-z_]+(?:\.py|/))", tree, re.M):
        assert (ROOT / "src/terrella" / name).exists(), name
    there = {p.name for p in (ROOT / "src/terrella").iterdir() if p.suffix == ".py" or (p / "__init__.py").exists()}
    missing = {n for n in there - {"__init__.py"} if not re.search(rf"\b{re.escape(n)}", tree)}
    assert not missing


def test_make_knows_the_two_commands():
    makefile = (ROOT / "Makefile").read_text()
    for target in ("demo", "test", "play", "setup", "lint", "bench"):
        assert re.search(rf"^{target}:", makefile, re.M)
