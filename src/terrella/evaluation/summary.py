"""A report in a few sentences, the bad news first."""

from __future__ import annotations

from typing import Any

FEW = 8  # futures below which a horizon's number is called thin


def summarise(report: dict[str, Any]) -> dict[str, list[str]]:
    """Return `{"warnings": [...], "findings": [...]}`: plain sentences drawn from a report's numbers."""
    warnings: list[str] = []
    findings: list[str] = []
    for name, table in report["streams"].items():
        _errors(name, table, report["horizons"], warnings, findings)
        _actions(name, table, report, warnings, findings)
        _life(name, (report.get("long") or {}).get(name), warnings, findings)
    _events(report, warnings, findings)
    for row in report.get("speed", []):
        sessions = "1 session" if row["sessions"] == 1 else f"{row['sessions']} sessions at once"
        findings.append(f"Speed: {row['frames_per_second']:.1f} frames a second, {sessions}.")
    if report.get("skipped"):
        warnings.append(f"{report['skipped']} episodes ended inside the context and were left out.")
    return {"warnings": warnings, "findings": findings}


def _errors(name: str, table: dict[str, Any], horizons: list[int], warnings: list[str], findings: list[str]) -> None:
    ratio = table["against_copy_last"]
    better = [
        h for h, (_, high), r in zip(horizons, ratio["interval"], ratio["mean"]) if r is not None and (high or r) < 1
    ]
    reached = [h for h, n in zip(horizons, table["n"]) if n]
    if not reached:
        warnings.append(f"{name}: no episode lasted to any horizon, so nothing was compared.")
        return
    if not better:
        warnings.append(f"{name}: at no horizon clearly better than holding the last frame.")
    elif worse := [h for h in reached if h not in better]:
        findings.append(
            f"{name}: clearly better than holding the last frame at horizons {_ranges(better, reached)}; "
            f"not clearly at {_ranges(worse, reached)}."
        )
    else:
        findings.append(
            f"{name}: clearly better than holding the last frame at every horizon measured (to {reached[-1]})."
        )
    half = table["half_skill_horizon"]
    held = table["copy_last_half_skill_horizon"]
    findings.append(
        f"{name}: skill (1 = as good as the truth told twice, 0 = an unrelated frame) "
        + (f"falls below one half at horizon {half}" if half else f"stays above one half to horizon {reached[-1]}")
        + f"; that of the last frame held {f'at horizon {held}' if held else 'stays above it'}."
    )
    if not table["floor"]["measured"]:
        findings.append(f"{name}: the share of chance was not measured (no fork of the environment); it is taken as 0.")
    elif not any(table["floor"]["mean"]):
        findings.append(f"{name}: the environment has no chance after the context: the truth told twice is identical.")
    thin = [h for h, n in zip(horizons, table["n"]) if 0 < n < FEW]
    gone = [h for h, n in zip(horizons, table["n"]) if n == 0]
    if thin:
        warnings.append(f"{name}: fewer than {FEW} episodes lasted to horizons {_ranges(thin, horizons)}.")
    if gone:
        warnings.append(f"{name}: no episode lasted to horizons {_ranges(gone, horizons)}; nothing is known there.")
    if table["failed"]:
        warnings.append(f"{name}: {table['failed']} predicted frames were not finite; they count as wrong.")


def _actions(
    name: str, table: dict[str, Any], report: dict[str, Any], warnings: list[str], findings: list[str]
) -> None:
    ratio = table["action_ratio"]
    known = [(h, r, i) for h, r, i in zip(report["horizons"], ratio["mean"], ratio["interval"]) if r is not None]
    if not known:
        return
    clear = [(h, r) for h, r, (low, _) in known if low is not None and low > 1.0]
    if not clear:
        warnings.append(
            f"{name}: somebody else's actions predict as well as the true ones: the world ignores its actions, or they "
            "hardly matter in this environment."
        )
        return
    horizon, best = max(clear, key=lambda pair: pair[1])
    findings.append(f"{name}: wrong actions raise the error up to {best:.2f} times (at horizon {horizon}).")


def _life(name: str, life: dict[str, Any] | None, warnings: list[str], findings: list[str]) -> None:
    if life is None:
        return
    motion, spread, strange = ((life.get(key) or {}).get("last_quarter") for key in ("motion", "spread", "strangeness"))
    before = len(warnings)
    if motion is not None and motion < 0.1:
        warnings.append(f"{name}: the long rollout freezes (motion {motion:.2f} of the truth's).")
    if motion is not None and motion > 4:
        warnings.append(f"{name}: the long rollout flickers (motion {motion:.1f} times the truth's).")
    if spread is not None and spread < 0.3:
        warnings.append(f"{name}: the long rollout goes flat (spread inside a frame {spread:.2f} of the truth's).")
    if strange is not None and strange > 2:
        warnings.append(
            f"{name}: the long rollout leaves what the environment can show ({strange:.1f} times as strange)."
        )
    lengths = sorted(life["true_lengths"])
    if 4 * lengths[len(lengths) // 2] < life["frames"]:
        findings.append(
            f"{name}: true episodes end after about {lengths[len(lengths) // 2]} steps, so most of the long rollout "
            "lies where the environment never was."
        )
    if len(warnings) == before and motion is not None:
        findings.append(
            f"{name}: after {life['frames']} frames on its own it still moves ({motion:.2f} of the truth's motion)"
            + (f" and looks like the environment (strangeness {strange:.2f}, truth 1)." if strange is not None else ".")
        )


def _events(report: dict[str, Any], warnings: list[str], findings: list[str]) -> None:
    for when, scores in report.get("events", {}).items():
        where = "one step after a true context" if when == "one_step" else "along the rollout"
        reward, end = scores["reward"], scores["termination"]
        found = reward["detection"]
        if found and found["balanced_accuracy"] is not None:
            findings.append(
                f"Rewards {where}: balanced accuracy {found['balanced_accuracy']:.2f} "
                f"({found['positives']} rewarded of {reward['n']} transitions)."
            )
        elif reward["correlation"] is not None:
            findings.append(f"Rewards {where}: correlation {reward['correlation']:.2f} (n = {reward['n']}).")
        if end["auroc"] is not None:
            findings.append(
                f"Ends {where}: AUROC {end['auroc']:.2f} ({end['positives']} ends of {end['n']} transitions)."
            )
        if when == "one_step" and end["positives"] == 0:
            warnings.append("No true episode terminated, so the prediction of ends was not tested.")


def _ranges(chosen: list[int], among: list[int]) -> str:
    """Write horizons as ranges of neighbours in `among`: `1-16, 64`."""
    runs: list[list[int]] = []
    for i, h in enumerate(among):
        if h in chosen:
            if runs and i and runs[-1][1] == among[i - 1]:
                runs[-1][1] = h
            else:
                runs.append([h, h])
    return ", ".join(f"{a}" if a == b else f"{a}-{b}" for a, b in runs)
