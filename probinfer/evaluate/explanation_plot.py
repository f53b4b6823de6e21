"""The picture of an explanation: a panel for each quantity. Imports matplotlib."""

from typing import Any

import numpy as np

from probinfer.evaluate.explanation import Explanation, Kind
from probinfer.evaluate.library import library

BLUE, GREY, PALE = "#2f6690", "#6b7280", "#c9d6df"
_SHOWN = 15  # bars


def draw(explanation: Explanation) -> Any:
    """A matplotlib Figure. Error bars are two standard errors, of sampling and of the posterior draws together."""
    figure_module = library("matplotlib.figure", "plot")
    table = explanation.table.assign(error=_errors(explanation.table))
    quantities = list(dict.fromkeys(table["quantity"]))
    figure = figure_module.Figure(figsize=(4.2 * len(quantities), 3.6), dpi=120, layout="constrained")
    panels = figure.subplots(1, len(quantities), squeeze=False)[0]
    for axes, quantity in zip(panels, quantities, strict=True):
        part = table[table["quantity"] == quantity]
        if explanation.kind is Kind.DEPENDENCE:
            _curves(axes, explanation, part, quantity)
        else:
            _bars(axes, part, "rule" if explanation.kind is Kind.SURROGATE else "input")
        axes.set_title(f"{quantity} of {explanation.outcome}", loc="left", fontsize=10)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(colors=GREY, labelsize=8)
    figure.suptitle(explanation.kind.value, fontsize=11)
    return figure


def _errors(table: Any) -> np.ndarray:
    return np.hypot(*(np.nan_to_num(table.get(name, np.zeros(len(table)))) for name in ("se", "mcse")))


def _bars(axes: Any, part: Any, label: str) -> None:
    """Values, the largest above; of several rows the mean size."""
    if "row" in part and part["row"].nunique() > 1:
        sizes = part.assign(value=part["value"].abs()).groupby(label, sort=False)
        count = part["row"].nunique()
        part = sizes.agg(
            value=("value", "mean"), error=("error", lambda e: np.sqrt((e**2).sum()) / count)
        ).reset_index()
        axes.set_xlabel("mean absolute value", fontsize=8)
    part = part.reindex(part["value"].abs().sort_values().index)[-_SHOWN:]
    place = np.arange(len(part))
    axes.barh(place, part["value"], color=BLUE)
    axes.errorbar(part["value"], place, xerr=2 * part["error"], fmt="none", ecolor=GREY, capsize=2)
    axes.axvline(0, color=GREY, linewidth=0.8)
    axes.set_yticks(place, part[label])


def _curves(axes: Any, explanation: Explanation, part: Any, quantity: str) -> None:
    if explanation.curves is not None:
        own = explanation.curves[explanation.curves["quantity"] == quantity]
        for _, curve in own.groupby("row"):
            axes.plot(curve["at"], curve["value"], color=PALE, linewidth=0.6)
    axes.fill_between(
        part["at"], part["value"] - 2 * part["error"], part["value"] + 2 * part["error"], color=BLUE, alpha=0.2, lw=0
    )
    axes.plot(part["at"], part["value"], color=BLUE)
    axes.set_xlabel(part["input"].iloc[0], fontsize=8)
