"""Commands for recordings whose actions nobody wrote down."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from ..errors import DatasetError
from .say import Say


def label(
    data: Positional[Path],
    /,
    by: Literal["latent", "inverse"] = "latent",
    labelled: Path | None = None,
    out: Annotated[Path | None, arg(help_behavior_hint="(default: runs/NAME-BY)")] = None,
    budget: str = "5m",
    preset: Literal["auto", "nano", "tiny", "small", "base", "debug"] = "auto",
    size: int = 4,
    seed: int = 0,
    device: str | None = None,
) -> None:
    """Give recordings actions that are read off their frames; those that they have are not looked at.

    A world trained on the result takes these actions. `terrella align` turns latent ones into controls.

    Args:
        data: Folder of the dataset.
        by: latent, a few numbers that say what changed, learned from the frames alone; or inverse, the actions of the
            environment, as a model of a few labelled recordings reads them.
        labelled: Folder of recordings whose actions are known, for inverse.
        out: Folder for the labelled dataset (OUT/data) and for what read the latent actions (OUT/actions).
        budget: How long to learn: 10m, 90s, 2h or 5000steps.
        preset: Size of the networks; auto follows budget and device.
        size: Numbers of a latent action.
        seed: Decides everything that is random.
        device: cpu or cuda; the best there is by default.
    """
    from ..data import Dataset
    from ..labels import LatentActions, learn_actions, pseudo_label
    from ..labels import label as write
    from ..labels.learning import require_new

    folder, dataset = out or Path("runs") / f"{data.name}-{by}", Dataset(data)
    how = {"budget": budget, "preset": preset, "seed": seed, "device": device}
    require_new(folder / "data")
    if by == "inverse":
        if labelled is None:
            raise DatasetError("inverse needs recordings whose actions are known; name them with --labelled.")
        pseudo_label(dataset, Dataset(labelled), folder / "data", **how)
    else:
        finished = (folder / "actions" / "encoder.safetensors").exists()
        load, learn = LatentActions.load, learn_actions
        model = load(folder / "actions") if finished else learn(dataset, folder / "actions", size=size, **how)
        write(dataset, folder / "data", model)
        varies = ", ".join(f"{x:.2f}" for x in model.record["deviation"])
        Say.print(f"deviations of the latent actions: {varies} (all near 0: nothing was found)")
    Say.print(f"{dataset.steps:,} transitions labelled: {folder / 'data'}")
    then = f"   then: terrella align {folder}/world LABELLED --actions {folder}/actions" if by == "latent" else ""
    Say.print(f"next: terrella train {folder}/data --out {folder}/world{then}")


def align(
    world: Positional[str],
    labelled: Positional[Path],
    /,
    actions: Path,
    out: Annotated[Path | None, arg(help_behavior_hint="(default: runs/NAME-aligned)")] = None,
    transitions: int | None = None,
    ridge: float = 1e-3,
) -> None:
    """Turn a world of latent actions into one that takes the controls of the environment, by a few labels.

    Args:
        world: Folder of a world that was trained on what `terrella label` wrote.
        labelled: Folder of recordings whose actions are known.
        actions: Folder of what read the latent actions.
        out: Folder for the new world.
        transitions: Read so many labels, from the first on; all by default.
        ridge: Penalty on the map from controls to latent actions.
    """
    from ..data import Dataset
    from ..labels import LatentActions, controlled
    from ..labels import align as find
    from ..world import World

    loaded, known = World.load(world), Dataset(labelled)
    controls = find(LatentActions.load(actions), known, transitions=transitions, ridge=ridge)
    folder = out or Path("runs") / f"{loaded.name}-aligned"
    controlled(loaded, controls, known).save(folder)
    told = controls.record["explained"]
    share = "unknown" if told is None else f"{told:.2f}"
    Say.print(f"{controls.record['transitions']:,} labels; share of the latents they explain in each other: {share}")
    Say.print(f"a world that takes controls: {folder}\nnext: terrella play {folder}   or   terrella evaluate {folder}")
