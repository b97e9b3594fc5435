"""Write the tables of the README and of the pages in `docs` from the JSON that the benchmarks left.

    python benchmarks/NAME.py --json benchmarks/results/NAME.json
    python benchmarks/memory.py --arena ARENA --json benchmarks/results/memory-ARENA.json
    python benchmarks/speed/NAME.py --json benchmarks/results/speed-NAME.json
    python benchmarks/tables.py

Each page says beside its tables with which arguments they were made; so does `command` in the JSON. The list of
dimensions comes from their definitions.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from tabled import language, speed, understanding, use, worlds

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
SPEED = (
    speed.horizon,
    speed.step,
    speed.sessions,
    speed.branches,
    speed.budget,
    speed.feature_caches,
    speed.kv_policies,
    speed.quantisation,
    speed.training,
    speed.peer_unet,
    speed.peer_speed,
    speed.device,
)
PAGES = {
    "README.md": {"gallery": worlds.gallery, "rollout": worlds.rollout, "dataset": worlds.dataset},
    "docs/choosing-a-backbone.md": {"memory-sprites": worlds.memory, "memory-blocks": worlds.memory},
    "docs/dimensions.md": {"dimensions": understanding.dimensions},
    "docs/drift.md": {"drift": worlds.drift},
    "docs/evaluation.md": {"leaderboard": understanding.leaderboard, "sensitivity": understanding.sensitivity},
    "docs/labels.md": {"latent_actions": language.latent_actions},
    "docs/language.md": {"sentences": language.sentences},
    "docs/learning.md": {"imagination": use.imagination, "dyna": use.dyna},
    "docs/planning.md": {"planning": use.planning, "heads": use.heads, "posttrain": use.posttrain}
    | {"deliberate": use.deliberate},
    "docs/reasoning.md": {"reasoner": use.reasoner, "proposal": use.proposal},
    "docs/speed.md": {f"speed-{make.__name__}": make for make in SPEED}
    | {"speed-feature_caches-fine": speed.feature_caches},
    "docs/two-clocks.md": {"two_clocks": language.two_clocks, "supervision": language.supervision},
}


def replace(text: str, name: str, table: str) -> str:
    """Put a table between its two comments."""
    pattern = rf"(<!-- {name} -->\n).*?(<!-- end -->)"
    if not re.search(pattern, text, re.S):
        raise SystemExit(f"there is no place '<!-- {name} -->' ... '<!-- end -->' in the document.")
    return re.sub(pattern, lambda m: f"{m[1]}{table}\n{m[2]}", text, count=1, flags=re.S)


def main() -> None:
    """Rewrite the tables of which there are results."""
    for page, tables in PAGES.items():
        text = (ROOT / page).read_text()
        for name, make in tables.items():
            if (RESULTS / f"{name}.json").exists():
                text = replace(text, name, make(json.loads((RESULTS / f"{name}.json").read_text())))
        if page == "docs/dimensions.md":
            text = replace(text, "dimension-list", understanding.dimension_list())
        (ROOT / page).write_text(text)


if __name__ == "__main__":
    main()
