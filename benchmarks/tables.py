"""Write the tables of the README and of the pages in docs from the JSON that the benchmarks left in
`benchmarks/results`, and the list of dimensions from their definitions.

python benchmarks/gallery.py --json benchmarks/results/gallery.json
python benchmarks/rollout.py --json benchmarks/results/rollout.json
python benchmarks/dataset.py --json benchmarks/results/dataset.json
python benchmarks/memory.py --arena sprites --json benchmarks/results/memory-sprites.json
python benchmarks/memory.py --arena blocks --json benchmarks/results/memory-blocks.json
python benchmarks/reasoner.py --json benchmarks/results/reasoner.json
python benchmarks/drift.py --json benchmarks/results/drift.json
python benchmarks/dimensions.py --json benchmarks/results/dimensions.json
python benchmarks/speed/NAME.py --json benchmarks/results/speed-NAME.json    (for each NAME there)
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


def memory(result: dict[str, Any]) -> str:
    """One line a backbone, means over seeds with the lowest and the highest, then the references."""
    lines = [
        "| backbone | parameters | error x 1000 at 1x | 3x | 10x | hidden x 1000 | continued | bytes | ms a frame |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    rows, shown = result["rows"], ("mse_1x", "mse_3x", "mse_10x", "hidden_mse")
    for name in dict.fromkeys(row["backbone"] for row in rows):
        own = [row for row in rows if row["backbone"] == name]
        marks = [_spread([1000 * row[key] for row in own]) for key in shown]
        marks.append(_spread([100 * row["continued_rate"] for row in own], 0) + " %")
        speed = sum(row["ms_per_frame"] for row in own) / len(own)
        lines.append(
            f"| {name} | {own[0]['params']:,} | {' | '.join(marks)} | {own[0]['state_bytes']:,} | {speed:.1f} |"
        )
    for row in result["references"]:
        marks = [f"{1000 * row[key]:.1f}" for key in shown] + [f"{100 * row['continued_rate']:.0f} %"]
        lines.append(f"| *{row['backbone']}* | | {' | '.join(marks)} | | |")
    return "\n".join([*lines, "", *_hidden([*rows, *result["references"]])])


def _hidden(rows: list[dict[str, Any]]) -> list[str]:
    """What returned after n frames out of view: error and share of continued, means over seeds."""
    cases = {n: kept["cases"] for n, kept in rows[0]["hidden"].items()}
    heads = [f"{n} frames or more ({count} returns)" for n, count in cases.items()]
    lines = [f"| hidden x 1000, continued, out of view for | {' | '.join(heads)} |", "|---|" + "---:|" * len(heads)]
    for name in dict.fromkeys(row["backbone"] for row in rows):
        own = [row["hidden"] for row in rows if row["backbone"] == name]
        marks = []
        for n in cases:
            known = [h[n] for h in own if h[n]["cases"]]
            error, share = (sum(h[key] for h in known) / max(1, len(known)) for key in ("mse", "continued_rate"))
            marks.append(f"{1000 * error:.1f}, {100 * share:.0f} %" if known else "")
        lines.append(f"| {name} | {' | '.join(marks)} |")
    return lines


def _spread(values: list[float], digits: int = 1) -> str:
    mean = f"{sum(values) / len(values):.{digits}f}"
    return mean if len(values) == 1 else f"{mean} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def _table(title: str, rows: list[tuple[str, str]]) -> str:
    return f"| {title} | |\n|---|---:|\n" + "\n".join(f"| {k} | {v} |" for k, v in rows)


def replace(text: str, name: str, table: str) -> str:
    """Put a table between its two comments."""
    pattern = rf"(<!-- {name} -->\n).*?(<!-- end -->)"
    if not re.search(pattern, text, re.S):
        raise SystemExit(f"there is no place '<!-- {name} -->' ... '<!-- end -->' in the document.")
    return re.sub(pattern, lambda m: f"{m[1]}{table}\n{m[2]}", text, count=1, flags=re.S)


def horizon(result: dict[str, Any]) -> str:
    """Late over early, and bytes, by backbone."""
    lines = [
        f"| backbone | frame {result['late']:,} / frame {result['early']} | bytes then, and late |",
        "|---|---:|---:|",
    ]
    for row in result["rows"]:
        low, high = row["quartiles"]
        lines.append(
            f"| {row['backbone']} | {row['late_over_early']:.3f} ({low:.2f} to {high:.2f}) "
            f"| {row['bytes_early']:,}, {row['bytes_late']:,} |"
        )
    return "\n".join(lines)


def step(result: dict[str, Any]) -> str:
    """The gain of each way over the plain one."""
    lines = ["| sessions | way | a rollout's gain | a step's gain | frames a second |", "|---:|---|---:|---:|---:|"]
    for row in result["rows"]:
        way = ", ".join(name for name in ("fused", "compiled") if row[name]) or "plain"
        lines.append(
            f"| {row['batch']} | {row['dtype']}, {way} | {row['rollout_gain']:.2f} | {row['step_gain']:.2f} "
            f"| {row['fps_step']:.0f} |"
        )
    return "\n".join(lines)


def sessions(result: dict[str, Any]) -> str:
    """The best setting of each batch size."""
    lines = ["| sessions | frames a second, all together | / one after another | setting |", "|---:|---:|---:|---|"]
    for batch in dict.fromkeys(row["batch"] for row in result["rows"]):
        best = max((r for r in result["rows"] if r["batch"] == batch), key=lambda r: r["fps_total"])
        setting = f"{best['dtype']}, {best['threads']} thread{'s' * (best['threads'] > 1)}"
        lines.append(f"| {batch} | {best['fps_total']:.0f} | {best['gain']:.2f} | {setting} |")
    return "\n".join(lines)


def branches(result: dict[str, Any]) -> str:
    """Time and bytes of branches over those of copies."""
    lines = ["| branches | actions | time / copies | bytes / copies |", "|---:|---|---:|---:|"]
    for row in result["rows"]:
        lines.append(f"| {row['branches']:,} | {row['case']} | {row['time_ratio']:.3f} | {row['bytes_ratio']:.3f} |")
    return "\n".join(lines)


def budget(result: dict[str, Any]) -> str:
    """Share of frames within each budget."""
    lines = ["| budget | way | kept | steps a frame | p50, p95, p99 ms |", "|---:|---|---:|---:|---:|"]
    for row in result["rows"]:
        times = ", ".join(f"{row[p]:.1f}" for p in ("p50", "p95", "p99"))
        lines.append(
            f"| {row['budget_ms']:.0f} ms | {row['way']}, {row['phase']} | {100 * row['kept']:.1f} % "
            f"| {row['steps']:.1f} | {times} |"
        )
    return "\n".join(lines)


def feature_caches(result: dict[str, Any]) -> str:
    """One line a world, number of steps and way."""
    lines = [
        "| world | steps | way | computed | gain (ideal) | apart x 1000 | error x 1000 | action ratio |",
        "|---|---:|---|---:|---:|---:|---:|---:|",
    ]
    for row in result["rows"]:
        way = f"{row['steps']} steps" if row["way"] == "fewer steps" else row["way"]
        marks = [row["world"], row["of"], way, f"{row['evaluations']:.1f}", f"{row['gain']:.2f} ({row['ideal']:.1f})"]
        marks += [_thousandths(row["apart"]), _thousandths(row["mse"]), f"{row['action_ratio'][1]:.1f}"]
        lines.append(f"| {' | '.join(map(str, marks))} |")
    return "\n".join(lines)


def kv_policies(result: dict[str, Any]) -> str:
    """One line a world and share, one column a policy."""
    rows = [row for row in result["rows"] if row["policy"] != "whole window"]
    policies = list(dict.fromkeys(row["policy"] for row in rows))
    lines = [f"| world, share of the window | {' | '.join(policies)} |", "|---|" + "---:|" * len(policies)]
    for world, share in dict.fromkeys((row["world"], row["share"]) for row in rows):
        own = {row["policy"]: row for row in rows if (row["world"], row["share"]) == (world, share)}
        marks = [", ".join(f"{x:.2f}" for x in own[p]["over_window"]) if p in own else "" for p in policies]
        lines.append(f"| {world}, {100 * share:.0f} % | {' | '.join(marks)} |")
    return "\n".join(lines)


def quantisation(result: dict[str, Any]) -> str:
    """One line a world and variant."""
    lines = ["| world | weights | bytes | one frame x 1000 | error x 1000 | time |", "|---|---|---:|---:|---:|---:|"]
    for world in result["worlds"]:
        for row in world["variants"]:
            lines.append(
                f"| {world['world']} | {row['name']} | {row['bytes_ratio']:.2f} | {1000 * row['one_frame']:.3f} "
                f"| {_thousandths(row['mse'])} | {row['ms_ratio']:.2f} |"
            )
    return "\n".join(lines)


def reasoner(result: dict[str, Any]) -> str:
    """Share solved by depth, then by breadth, one line a test and arm, means over seeds with lowest and highest."""
    tests = dict.fromkeys((r["task"], test) for r in result["rows"] for test in r["tests"])
    arms = dict.fromkeys(r["arm"] for r in result["rows"])
    own = {
        (task, test, arm): [r["tests"][test] for r in result["rows"] if (r["task"], r["arm"]) == (task, arm)]
        for task, test in tests
        for arm in arms
    }
    own = {case: kept for case, kept in own.items() if kept}
    depths = list(dict.fromkeys(d for kept in own.values() for d in kept[0]["depth"]))
    lines = [
        f"| % solved after iterations | {' | '.join(depths)} | AUROC | stopping |",
        "|---|" + "---:|" * (len(depths) + 2),
    ]
    for (task, test, arm), kept in own.items():
        marks = [_spread([100 * t["depth"][d] for t in kept], 0) if d in kept[0]["depth"] else "" for d in depths]
        areas = [a for t in kept if (a := t.get("auroc", {}).get(depths[-1])) is not None]
        shares = [100 * t["stopping"]["share"] for t in kept if "stopping" in t]
        marks += [_spread(areas, 2) if areas else "", _spread(shares, 0) + " %" if shares else ""]
        lines.append(f"| {task}, {test}, {arm} | {' | '.join(marks)} |")
    lines += ["", "| % solved from several starts | one | residual | vote | cost | any |", "|---|" + "---:|" * 5]
    for (task, test, arm), kept in own.items():
        for depth in kept[0].get("breadth", {}):
            wide = [t["breadth"][depth] for t in kept]
            most = max((k for k in wide[0] if k != "mean"), key=int)
            marks = [_spread([100 * w["mean"] for w in wide], 0)]
            marks += [_spread([100 * w[most][k] for w in wide], 0) for k in ("residual", "vote", "cost", "any")]
            lines.append(f"| {task}, {test}, {arm}, {depth} iterations, {most} starts | {' | '.join(marks)} |")
    return "\n".join(lines)


def drift(result: dict[str, Any]) -> str:
    """One line a task and switch, then one a world and signal; means over seeds with the lowest and the highest."""
    lines = [
        "| % of an unrelated frame's error | at 1x | at 10x | slope, per 100 frames | steps |",
        "|---|" + "---:|" * 4,
    ]
    rows, length = result["rows"], result["length"]
    for case in dict.fromkeys((row["task"], row["arm"]) for row in rows):
        own = [row for row in rows if (row["task"], row["arm"]) == case]
        shares = [dict(zip(row["horizons"], row["share"])) for row in own]
        marks = [_spread([100 * s[k * length] for s in shares]) for k in (1, 10)]
        marks += [_spread([100 * row["slope"] for row in own]), f"{sum(r['steps'] for r in own) / len(own):,.0f}"]
        lines.append(f"| {', '.join(case)} | {' | '.join(marks)} |")
    return "\n".join([*lines, "", *_alarms(result)])


def _alarms(result: dict[str, Any]) -> list[str]:
    """What each signal tells, in worlds of the gallery and in the default ones of each task."""
    told = [(f"gallery: {row['world']}", row["alarm"]) for row in result["alarms"]]
    told += [(row["task"], row["alarm"]) for row in result["rows"] if "alarm" in row]
    marks = list(dict.fromkeys(h for _, signals in told for kept in signals.values() for h in kept["auroc"]))
    heads = [
        *(f"AUROC at {h}" for h in marks),
        "all frames",
        "alarms to 1x, %",
        "at 10x, %",
        "recall, %",
        "precision, %",
    ]
    lines = [f"| world, signal | {' | '.join(heads)} |", "|---|" + "---:|" * len(heads)]
    for case in dict.fromkeys((world, name) for world, signals in told for name in signals):
        own = [signals[case[1]] for world, signals in told if world == case[0] and case[1] in signals]
        cells = [_known([kept["auroc"][h] for kept in own], 2) for h in marks]
        cells.append(_known([kept["pooled"] for kept in own], 2))
        for key in ("early", "late", "recall", "precision"):
            values = [None if case[1] == "age" or kept[key] is None else 100 * kept[key] for kept in own]
            cells.append(_known(values, 0))
        lines.append(f"| {', '.join(case)} | {' | '.join(cells)} |")
    return lines


def _known(values: list[float | None], digits: int) -> str:
    known = [v for v in values if v is not None]
    return _spread(known, digits) if known else ""


def training(result: dict[str, Any]) -> str:
    """One line a preset and backbone."""
    lines = [
        f"| preset, backbone ({result['threads']} threads) | frames a second, tokenizer | frames a second, backbone |",
        "|---|---:|---:|",
    ]
    for row in result["rows"]:
        lines.append(
            f"| {row['preset']}, {row['backbone']} | {row['tokenizer_fps']:,.0f} | {row['dynamics_fps']:,.0f} |"
        )
    return "\n".join(lines)


def peer_unet(result: dict[str, Any]) -> str:
    """Errors by horizon, means over seeds with the lowest and the highest."""
    marks = result["horizons"]
    heads = [f"{mark} ({count})" for mark, count in zip(marks, result["n"])]
    lines = [f"| error x 1000 at (futures) | {' | '.join(heads)} |", "|---|" + "---:|" * len(heads)]
    for model in dict.fromkeys(row["model"] for row in result["rows"]):
        own = [row["mse"] for row in result["rows"] if row["model"] == model]
        cells = [_spread([1000 * e for e in at if e is not None]) if None not in at else "" for at in zip(*own)]
        lines.append(f"| {model} | {' | '.join(cells)} |")
    for name, found in result["references"].items():
        cells = ["" if e is None else f"{1000 * e:.1f}" for e in found["mse"]]
        lines.append(f"| *{name.replace('_', ' ')}* | {' | '.join(cells)} |")
    return "\n".join(lines)


def peer_speed(result: dict[str, Any]) -> str:
    """Frames a second of each way."""
    return _table("one session, one thread: frames a second", [(k, f"{v:.1f}") for k, v in result["fps"].items()])


def device(result: dict[str, Any]) -> str:
    """One line a preset, batch and way."""
    lines = [
        "| preset | sessions | way | frames a second | gain | of the memory's bandwidth |",
        "|---|---:|---|---:|---:|---:|",
    ]
    for row in result["rows"]:
        lines.append(
            f"| {row['preset']} | {row['batch']} | {row['way']} | {row['fps_total']:,.0f} | {row['gain']:.2f} "
            f"| {100 * row['share']:.1f} % |"
        )
    return "\n".join(lines)


def _thousandths(values: list[float]) -> str:
    return ", ".join(f"{1000 * v:.2f}" for v in values)


def imagination(result: dict[str, Any]) -> str:
    """One line a task, recording and learner: return in the true environment, a mean over seeds with its ends."""
    rows = result["policies"]
    lines = ["| task, recorded | learner | true steps | imagined | true return |", "|---|---|---:|---:|---:|"]
    for case in dict.fromkeys((row["task"], row["data"], row["learner"]) for row in rows):
        own = [row for row in rows if (row["task"], row["data"], row["learner"]) == case]
        task, data, learner = case
        counts = f"{own[0]['true_steps']:,} | {own[0]['imagined_steps']:,}"
        where = task if data == "none" else f"{task}, {data}"
        lines.append(f"| {where} | {learner} | {counts} | {_spread([row['return'] for row in own], 0)} |")
    return "\n".join(lines)


def dyna(result: dict[str, Any]) -> str:
    """One line a task and learner: true steps until the goal was reached, by seed."""
    rows = result["dyna"]
    lines = ["| task (goal) | learner | true steps to the goal, by seed |", "|---|---|---|"]
    for task, learner in dict.fromkeys((row["task"], row["learner"]) for row in rows):
        own = [row for row in rows if (row["task"], row["learner"]) == (task, learner)]
        told = []
        for seed in dict.fromkeys(row["seed"] for row in own):
            reached = [row["true_steps"] for row in own if row["seed"] == seed and row["reached"]]
            most = max(row["true_steps"] for row in own if row["seed"] == seed)
            told.append(f"{min(reached):,}" if reached else f"not in {most:,}")
        lines.append(f"| {task} ({own[0]['goal']:g}) | {learner} | {'; '.join(told)} |")
    return "\n".join(lines)


def planning(result: dict[str, Any]) -> str:
    """One line a task and planner: success by futures a plan, in the world and in the simulator, means over seeds."""
    rows = [row for row in result["rows"] if "success" in row]
    counts = sorted({row["rollouts"] for row in rows if row["model"] != "none" and row["planner"] != "greedy"})
    heads = " | ".join(f"{n} futures: world | simulator" for n in counts)
    lines = [f"| % success, task and planner | {heads} |", "|---|" + "---:|" * 2 * len(counts)]
    for task in dict.fromkeys(row["task"] for row in rows):
        own = [row for row in rows if row["task"] == task]
        floors = {
            planner: _spread([100 * row["success"] for row in own if row["planner"] == planner], 0)
            for planner in dict.fromkeys(row["planner"] for row in own if row["model"] == "none")
        }
        greedy = [100 * row["success"] for row in own if (row["model"], row["planner"]) == ("world", "greedy")]
        floors |= {"greedy": _spread(greedy, 0)} if greedy else {}
        said = ", ".join(f"{name} {value}" for name, value in floors.items())
        lines.append(f"| **{task}** ({said}) |" + " |" * 2 * len(counts))
        for planner in dict.fromkeys(r["planner"] for r in own if r["model"] != "none" and r["planner"] != "greedy"):
            cells = []
            for count in counts:
                for model in ("world", "simulator"):
                    case = (model, planner, count)
                    found = [r["success"] for r in own if (r["model"], r["planner"], r.get("rollouts")) == case]
                    cells.append(_spread([100 * share for share in found], 0) if found else "")
            lines.append(f"| {task}, {planner} | {' | '.join(cells)} |")
    return "\n".join(lines)


def leaderboard(result: dict[str, Any]) -> str:
    """One line a world and measurement, whoever is measured in bold, references beside it: kappas of row and assign."""
    rows = [row for row in result["rows"] if row.get("row_kappa") is not None]
    marks = sorted({row["horizon"] for row in rows})
    heads = " | ".join(f"row; assign after {mark}" for mark in marks)
    lines = [f"| world, measurement, entrant | n, k left | {heads} |", "|---|---:|" + "---:|" * len(marks)]
    case = ("world", "measurement", "stream", "entrant")
    for which in dict.fromkeys(tuple(row[key] for key in case) for row in rows):
        own = {row["horizon"]: row for row in rows if tuple(row[key] for key in case) == which}
        world, measurement, _, entrant = which
        who = f"*{entrant}*" if next(iter(own.values()))["kind"] == "reference" else f"**{entrant}**"
        left = ", ".join(f"{row['left']:.1f}" for row in own.values())
        cells = []
        for mark in marks:
            row = own.get(mark, {})
            pairs = [(row[f"{key}_kappa"], row[f"{key}_kappa_interval"]) for key in ("row", "assign") if row]
            cells.append("; ".join(_measured(*pair) for pair in pairs))
        most = max(row["n"] for row in own.values())
        lines.append(f"| {world}, {measurement}, {who} | {most}; {left} | {' | '.join(cells)} |")
    return "\n".join(lines)


def sensitivity(result: dict[str, Any]) -> str:
    """One line a damage and measurement, of row and assign: the change, in bold where a fall is certain."""
    rows = [row for row in result["rows"] if row["score"] in ("row", "assign") and row["over"] == "all" and "p" in row]
    marks = sorted({row["horizon"] for row in rows})
    lines = [f"| world, damage, score | {' | '.join(f'after {m}' for m in marks)} |", "|---|" + "---:|" * len(marks)]
    case = ("world", "damage", "measurement", "score")
    for which in dict.fromkeys(tuple(row[key] for key in case) for row in rows):
        own = {row["horizon"]: row for row in rows if tuple(row[key] for key in case) == which}
        cells = []
        for mark in marks:
            row = own.get(mark)
            text = "" if row is None else f"{row['difference']:+.2f}"
            cells.append(f"**{text}**" if row is not None and row["falls"] else text)
        world, damage, measurement, score = which
        lines.append(f"| {world}, {damage}, {measurement}: {score} | {' | '.join(cells)} |")
    return "\n".join(lines)


def dimensions(result: dict[str, Any]) -> str:
    """Shares of right answers, one line a world and dimension: first of perception, then of prediction."""
    cases: dict[tuple[str, str], dict[tuple[str, str], dict[str, Any]]] = {}
    for row in result["rows"]:
        who = "world" if row["kind"] == "world" else row["entrant"]
        case = cases.setdefault((row["world"], row["dimension"]), {})
        case.setdefault((who, row["read"]), {})[row["how"]] = row
    seen = [("world", "latents"), ("world", "memory"), ("untrained", "latents"), ("untrained", "memory")]
    seen += [("pixels", "frames"), ("true state", "quantities")]
    heads = " | ".join(f"{who}, {what}" for who, what in seen)
    lines = [f"| linear; network | n | chance | {heads} | entanglement |", "|---|" + "---:|" * (len(seen) + 3)]
    tail = ["", "| row; assign | n | chance | world | untrained | last frame held | true simulator | entanglement |"]
    tail.append("|---|" + "---:|" * 7)
    for (world, name), case in cases.items():
        first = next(iter(next(iter(case.values())).values()))
        start = f"| {world}, {name} | {first['items']} | {first['chance']:.2f} |"
        if "linear" in next(iter(case.values())):
            cells = [_ways(case.get(column), column[0] == "world") for column in seen]
            lines.append(f"{start} {' | '.join(cells)} | {_entangled(case.get(seen[1], {}).get('linear'))} |")
            continue
        for stream in dict.fromkeys(what for _, what in case):
            some = [(who, stream) for who in ("world", "untrained", "last frame held", "true simulator")]
            cells = [_ways(case.get(column), column[0] == "world") for column in some]
            tail.append(f"{start} {' | '.join(cells)} | {_entangled(case.get(some[0], {}).get('row'))} |")
    return "\n".join(lines + (tail if len(tail) > 3 else []))


def _ways(found: dict[str, Any] | None, whole: bool) -> str:
    """Accuracies of every way of reading; whole: with their intervals."""
    cells = [row for row in (found or {}).values() if row["accuracy"] is not None]
    return "; ".join(_measured(row["accuracy"], row["interval"] if whole else [None, None]) for row in cells)


def _entangled(found: dict[str, Any] | None) -> str:
    told = {} if found is None else found["entanglement"]
    shown = [f"{name} {e['s_re']:.2f} ({e['permuted']:.2f})" for name, e in told.items() if e["s_re"] is not None]
    return ", ".join(shown)


def dimension_list() -> str:
    """One line a dimension, from the definitions themselves."""
    from terrella.evaluation.dimensions import DIMENSIONS

    lines = [
        "| id | aspect | asks | arena | classes | differs, beyond arena and pictures |",
        "|---|---|---|---|---:|---|",
    ]
    for d in DIMENSIONS.values():
        lines.append(f"| {d.id} | {d.aspect} | {d.asks} | `{d.arena}` | {d.classes} | {d.approximates or '–'} |")
    return "\n".join(lines)


def _measured(mean: float, interval: list[float | None]) -> str:
    low, high = interval
    return f"{mean:.2f}" if low is None or high is None else f"{mean:.2f} ({low:.2f} to {high:.2f})"


SPEED = (
    horizon,
    step,
    sessions,
    branches,
    budget,
    feature_caches,
    kv_policies,
    quantisation,
    training,
    peer_unet,
    peer_speed,
    device,
)
PAGES = {
    "README.md": {"gallery": gallery, "rollout": rollout, "dataset": dataset},
    "docs/choosing-a-backbone.md": {"memory-sprites": memory, "memory-blocks": memory},
    "docs/dimensions.md": {"dimensions": dimensions},
    "docs/drift.md": {"drift": drift},
    "docs/evaluation.md": {"leaderboard": leaderboard, "sensitivity": sensitivity},
    "docs/learning.md": {"imagination": imagination, "dyna": dyna},
    "docs/planning.md": {"planning": planning},
    "docs/reasoning.md": {"reasoner": reasoner},
    "docs/speed.md": {f"speed-{make.__name__}": make for make in SPEED} | {"speed-feature_caches-fine": feature_caches},
}


def main() -> None:
    """Rewrite the tables of which there are results."""
    for page, tables in PAGES.items():
        text = (ROOT / page).read_text()
        for name, make in tables.items():
            if (RESULTS / f"{name}.json").exists():
                text = replace(text, name, make(json.loads((RESULTS / f"{name}.json").read_text())))
        if page == "docs/dimensions.md":
            text = replace(text, "dimension-list", dimension_list())
        (ROOT / page).write_text(text)


if __name__ == "__main__":
    main()
