"""Tables of what worlds are for: planning, reasoning, learning."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .cells import known, spread


def planning(result: dict[str, Any]) -> str:
    """One line a task and planner: success by futures a plan, in the world and in the simulator, means over seeds."""
    rows = [row for row in result["rows"] if "success" in row]
    counts = sorted({row["rollouts"] for row in rows if row["model"] != "none" and row["planner"] != "greedy"})
    heads = " | ".join(f"{n} futures: world | simulator" for n in counts)
    lines = [f"| % success, task and planner | {heads} |", "|---|" + "---:|" * 2 * len(counts)]
    for task in dict.fromkeys(row["task"] for row in rows):
        own = [row for row in rows if row["task"] == task]
        floors = {
            planner: spread([100 * row["success"] for row in own if row["planner"] == planner], 0)
            for planner in dict.fromkeys(row["planner"] for row in own if row["model"] == "none")
        }
        greedy = [100 * row["success"] for row in own if (row["model"], row["planner"]) == ("world", "greedy")]
        floors |= {"greedy": spread(greedy, 0)} if greedy else {}
        said = ", ".join(f"{name} {value}" for name, value in floors.items())
        lines.append(f"| **{task}** ({said}) |" + " |" * 2 * len(counts))
        for planner in dict.fromkeys(r["planner"] for r in own if r["model"] != "none" and r["planner"] != "greedy"):
            cells = []
            for count in counts:
                for model in ("world", "simulator"):
                    case = (model, planner, count)
                    found = [r["success"] for r in own if (r["model"], r["planner"], r.get("rollouts")) == case]
                    cells.append(spread([100 * share for share in found], 0) if found else "")
            lines.append(f"| {task}, {planner} | {' | '.join(cells)} |")
    return "\n".join(lines)


def deliberate(result: dict[str, Any]) -> str:
    """One line an errand: success of each agent, means over seeds with lowest and highest; and what it chose."""
    rows = result["rows"]
    cases = list(dict.fromkeys((row["model"], row["agent"]) for row in rows))
    names = [agent if model == "none" else f"{agent} in the {model}" for model, agent in cases]
    lines = [f"| % success | {' | '.join(names)} | best of those offered |", "|---|" + "---:|" * (len(cases) + 1)]
    for errand in dict.fromkeys(row["errand"] for row in rows):
        own = [row for row in rows if row["errand"] == errand]
        cells = []
        for case in cases:
            found = [100 * row["success"] for row in own if (row["model"], row["agent"]) == case]
            cells.append(spread(found, 0) if found else "")
        chosen = [100 * row["chosen_truly"] for row in own if row.get("chosen_truly") is not None]
        lines.append(f"| {errand} | {' | '.join(cells)} | {spread(chosen, 0) if chosen else ''} |")
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
        marks = [spread([100 * t["depth"][d] for t in kept], 0) if d in kept[0]["depth"] else "" for d in depths]
        areas = [a for t in kept if (a := t.get("auroc", {}).get(depths[-1])) is not None]
        shares = [100 * t["stopping"]["share"] for t in kept if "stopping" in t]
        marks += [spread(areas, 2) if areas else "", spread(shares, 0) + " %" if shares else ""]
        lines.append(f"| {task}, {test}, {arm} | {' | '.join(marks)} |")
    lines += ["", "| % solved from several starts | one | residual | vote | cost | any |", "|---|" + "---:|" * 5]
    for (task, test, arm), kept in own.items():
        for depth in kept[0].get("breadth", {}):
            wide = [t["breadth"][depth] for t in kept]
            most = max((k for k in wide[0] if k != "mean"), key=int)
            marks = [spread([100 * w["mean"] for w in wide], 0)]
            marks += [spread([100 * w[most][k] for w in wide], 0) for k in ("residual", "vote", "cost", "any")]
            lines.append(f"| {task}, {test}, {arm}, {depth} iterations, {most} starts | {' | '.join(marks)} |")
    return "\n".join(lines)


def imagination(result: dict[str, Any]) -> str:
    """One line a task, recording and learner: return in the true environment, a mean over seeds with its ends."""
    rows = result["policies"]
    lines = ["| task, recorded | learner | true steps | imagined | true return |", "|---|---|---:|---:|---:|"]
    for case in dict.fromkeys((row["task"], row["data"], row["learner"]) for row in rows):
        own = [row for row in rows if (row["task"], row["data"], row["learner"]) == case]
        task, data, learner = case
        counts = f"{own[0]['true_steps']:,} | {own[0]['imagined_steps']:,}"
        where = task if data == "none" else f"{task}, {data}"
        lines.append(f"| {where} | {learner} | {counts} | {spread([row['return'] for row in own], 0)} |")
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


def proposal(result: dict[str, Any]) -> str:
    """One line a side and actor: share of mazes solved, means over seeds, and how often the first proposal is right."""
    lines = ["| % solved, tokens a side, actor | solved | first proposal right, % |", "|---|---:|---:|"]
    rows = [row for row in result["rows"] if "success" in row]
    for side, who in dict.fromkeys((row["side"], row["who"]) for row in rows):
        own = [row for row in rows if (row["side"], row["who"]) == (side, who)]
        right = [100 * row["right"] if "right" in row else None for row in own]
        lines.append(f"| {side}, {who} | {spread([100 * row['success'] for row in own], 0)} | {known(right, 0)} |")
    return "\n".join(lines)


def heads(result: dict[str, Any]) -> str:
    """What heads know, then what planners gain by them; means over seeds with the lowest and the highest."""
    rows = result["rows"]
    facts = {
        "energy: AUROC, true against false": lambda r: sum(r["auroc"].values()) / len(r["auroc"]),
        "inverse: right, true frames": lambda r: _told(r["real"]),
        "inverse: right, dreamed frames": lambda r: _told(r["dreamed"]) if "dreamed" in r else None,
        "value: variance of returns explained": lambda r: r["explained"],
        "choice by energy: share of the way from chance to the best": lambda r: r["gain"],
    }
    tasks = list(dict.fromkeys(row["task"] for row in rows))
    lines = [f"| what heads know | {' | '.join(tasks)} |", "|---|" + "---:|" * len(tasks)]
    for fact, read in facts.items():
        what = fact.split(":")[0].split()[0]
        cells = [known([read(r) for r in rows if (r["task"], r["what"]) == (task, what)], 2) for task in tasks]
        lines.append(f"| {fact} | {' | '.join(cells)} |")
    lines += ["", "| task, way of planning | horizon | model steps | success, % | return |", "|---|" + "---:|" * 4]
    acted = [row for row in rows if row["what"] in ("control", "verify")]
    for task, what, arm in dict.fromkeys((row["task"], row["what"], row["arm"]) for row in acted):
        own = [row for row in acted if (row["task"], row["what"], row["arm"]) == (task, what, arm)]
        marks = [str(own[0]["horizon"]), f"{own[0]['model_steps']:,}", spread([100 * r["success"] for r in own], 0)]
        marks.append(spread([r["return"] for r in own], 0))
        lines.append(f"| {task}, {what}: {arm} | {' | '.join(marks)} |")
    return "\n".join(lines)


def _told(kept: dict[str, float]) -> float | None:
    return kept.get("choices", kept.get("numbers"))


def posttrain(result: dict[str, Any]) -> str:
    """One line a task, decoder and arm: after / before, of errors by horizon and of everything else."""
    rows = result["rows"]
    marks = list(rows[0]["before"]["error"])
    heads = [*(f"error at {h}" for h in marks), "one-step loss", "reward", "end", "action ratio"]
    lines = [f"| after / before | {' | '.join(heads)} |", "|---|" + "---:|" * len(heads)]
    for case in dict.fromkeys((row["task"], row["decoder"], row["arm"]) for row in rows):
        own = [row for row in rows if (row["task"], row["decoder"], row["arm"]) == case]
        cells = [_change(own, lambda m, h=h: m["error"][h]) for h in marks]
        cells += [_change(own, lambda m: sum(m["one_step"].values()))]
        cells += [_change(own, lambda m, key=key: m[key]) for key in ("reward", "end", "action_ratio")]
        lines.append(f"| {', '.join(case)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _change(rows: list[dict[str, Any]], read: Callable[[dict[str, Any]], float]) -> str:
    pairs = [(read(row["before"]), read(row["after"])) for row in rows]
    return spread([after / before for before, after in pairs if before], 2) if all(b for b, _ in pairs) else ""
