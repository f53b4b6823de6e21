"""The demo's picture: predictions with intervals, and what each county's level leans on. Imports matplotlib."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from probinfer.errors import MissingExtra

BLUE, ORANGE, GREY, PALE = "#2f6690", "#d1495b", "#6b7280", "#c9d6df"
ACTION_LEVEL = 4.0  # pCi/L: the radon activity from which the EPA advises to act


def draw(path: Path, scored: pd.DataFrame, counties: pd.DataFrame, level: float) -> None:
    """Write the picture as a PNG.

    `scored`: one row a held-out house, with log_radon, mean, lower, upper. `counties`: one row a county, with
    log_uranium, houses (in training), observed (mean of its houses adjusted to the basement), and mean, sd of its
    estimated level.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtra(
            "the picture needs matplotlib, which is not installed: pip install 'probinfer[plot]'"
        ) from error
    figure = Figure(figsize=(13, 5.6), dpi=130, layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[1.35, 1])
    _houses(left, scored, level)
    _counties(right, counties, level)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color(GREY)
        axes.tick_params(colors=GREY)
        axes.set_title(axes.get_title(loc="left"), loc="left", fontsize=12, fontweight="bold")
    figure.savefig(path)


def _houses(axes: Any, scored: pd.DataFrame, level: float) -> None:
    scored = scored.sort_values("mean", ignore_index=True)
    place = np.arange(len(scored))
    radon, mean, lower, upper = (np.exp(scored[name]) for name in ("log_radon", "mean", "lower", "upper"))
    inside = (radon >= lower) & (radon <= upper)
    axes.vlines(place, lower, upper, color=PALE, linewidth=2.0, zorder=1, label=f"{level:.0%} interval")
    axes.plot(place, mean, color=BLUE, linewidth=1.6, zorder=2, label="prediction")
    axes.scatter(place[inside], radon[inside], s=14, color=BLUE, zorder=3, linewidth=0, label="measured, inside")
    axes.scatter(
        place[~inside], radon[~inside], s=30, color=ORANGE, zorder=3, marker="D", linewidth=0, label="measured, outside"
    )
    axes.axhline(ACTION_LEVEL, color=GREY, linewidth=0.8, linestyle=(0, (5, 4)), zorder=1.5)
    axes.text(len(place) + 3, ACTION_LEVEL, "EPA\naction\nlevel", color=GREY, fontsize=8, va="center")
    axes.set_yscale("log")
    axes.set_yticks([0.1, 0.3, 1, 3, 10, 30], ["0.1", "0.3", "1", "3", "10", "30"])
    axes.minorticks_off()
    axes.set_xlim(-2, len(place) + 1)
    axes.set_xlabel("held-out houses, in order of their prediction")
    axes.set_ylabel("radon, pCi/L (log scale)")
    axes.set_title(f"{inside.sum()} of {len(scored)} held-out houses lie inside their {level:.0%} interval", loc="left")
    axes.legend(loc="upper left", frameon=False, ncols=2, fontsize=9)


def _counties(axes: Any, counties: pd.DataFrame, level: float) -> None:
    half = counties["half_width"]
    axes.vlines(
        counties["log_uranium"], counties["mean"] - half, counties["mean"] + half, color=PALE, linewidth=2.4, zorder=1
    )
    axes.vlines(
        counties["log_uranium"], counties["observed"], counties["mean"], color=GREY, linewidth=0.5, alpha=0.6, zorder=2
    )
    axes.scatter(
        counties["log_uranium"],
        counties["observed"],
        s=6 + 3 * counties["houses"],
        facecolor="none",
        edgecolor=GREY,
        linewidth=0.9,
        zorder=3,
        label="mean of the county's own houses (size: how many)",
    )
    axes.scatter(
        counties["log_uranium"],
        counties["mean"],
        s=16,
        color=BLUE,
        linewidth=0,
        zorder=4,
        label=f"estimated level, {level:.0%} interval",
    )
    axes.set_xlabel("log uranium in the county's soil")
    axes.set_ylabel("county level: log radon in a basement")
    axes.set_title("A county with few houses leans on the others", loc="left")
    axes.legend(loc="lower right", frameon=False, fontsize=9)
