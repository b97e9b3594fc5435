"""Tables of docs/speed.md, one for each benchmark of `speed/`."""

from __future__ import annotations

from typing import Any

from .cells import spread, thousandths, two_columns


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
        marks += [thousandths(row["apart"]), thousandths(row["mse"]), f"{row['action_ratio'][1]:.1f}"]
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
                f"| {thousandths(row['mse'])} | {row['ms_ratio']:.2f} |"
            )
    return "\n".join(lines)


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
        cells = [spread([1000 * e for e in at if e is not None]) if None not in at else "" for at in zip(*own)]
        lines.append(f"| {model} | {' | '.join(cells)} |")
    for name, found in result["references"].items():
        cells = ["" if e is None else f"{1000 * e:.1f}" for e in found["mse"]]
        lines.append(f"| *{name.replace('_', ' ')}* | {' | '.join(cells)} |")
    return "\n".join(lines)


def peer_speed(result: dict[str, Any]) -> str:
    """Frames a second of each way."""
    return two_columns("one session, one thread: frames a second", [(k, f"{v:.1f}") for k, v in result["fps"].items()])


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
