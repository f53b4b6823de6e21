"""The picture of an explanation: a panel for each quantity. Imports matplotlib."""

import textwrap
from typing import Any

import numpy as np

from probinfer.evaluate.explanation import Explanation, Kind, Quantity
from probinfer.evaluate.library import library

BLUE, GREY, PALE = "#2f6690", "#6b7280", "#c9d6df"
_SHOWN = 15  # bars
_LINE, _LETTER, _ROW = 42, 0.065, 0.16  # letters to a line of a label; inches that a letter and a line of one take
_MEANS = {
    Kind.PERMUTATION: "change when it is shuffled",
    Kind.SHAP: "share of the distance from the background's mean",
    Kind.LIME: "effect of one sd near the row",
    Kind.SURROGATE: "mean where the rule holds",
}


def draw(explanation: Explanation) -> Any:
    """A matplotlib Figure. Error bars are two standard errors, of sampling and of the posterior draws together."""
    figure_module = library("matplotlib.figure", "plot")
    table = explanation.table.assign(error=_errors(explanation.table))
    quantities = list(dict.fromkeys(table["quantity"]))
    label = "rule" if explanation.kind is Kind.SURROGATE else "input"
    size = (4.2, 3.6) if explanation.kind is Kind.DEPENDENCE else _panel(table, label)
    figure = figure_module.Figure(figsize=(size[0] * len(quantities), size[1]), dpi=120, layout="constrained")
    panels = figure.subplots(1, len(quantities), squeeze=False)[0]
    for axes, quantity in zip(panels, quantities, strict=True):
        part = table[table["quantity"] == quantity]
        if explanation.kind is Kind.DEPENDENCE:
            _curves(axes, explanation, part, quantity)
        else:
            _bars(axes, part, label)
            lost = quantity not in {one.value for one in Quantity}  # the score that permutation costs
            told = axes.get_xlabel() + ("loss when it is shuffled" if lost else _MEANS[explanation.kind])
            axes.set_xlabel(_lines(told), fontsize=8)
            axes.locator_params(axis="x", nbins=5)
        axes.set_title(f"{quantity} of {explanation.outcome}", loc="left", fontsize=10)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(colors=GREY, labelsize=8)
    figure.suptitle(explanation.kind.value, fontsize=11)
    return figure


def _panel(table: Any, label: str) -> tuple[float, float]:
    """Width and height of a panel of bars whose labels can be read."""
    lines = [_lines(one).split("\n") for one in dict.fromkeys(table[label])]
    longest = max(len(line) for each in lines for line in each)
    return 4.2 + _LETTER * max(0, longest - 16), max(3.6, 1.2 + _ROW * sum(len(each) + 1 for each in lines[:_SHOWN]))


def _lines(label: Any) -> str:
    return textwrap.fill(str(label), _LINE)


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
        axes.set_xlabel("mean size of the ")
    part = part.reindex(part["value"].abs().sort_values().index)[-_SHOWN:]
    place = np.arange(len(part))
    axes.barh(place, part["value"], color=BLUE)
    axes.errorbar(part["value"], place, xerr=2 * part["error"], fmt="none", ecolor=GREY, capsize=2)
    axes.axvline(0, color=GREY, linewidth=0.8)
    axes.set_yticks(place, [_lines(one) for one in part[label]])


def _curves(axes: Any, explanation: Explanation, part: Any, quantity: str) -> None:
    """A line with its band over numbers and dates; of labels, between which nothing lies, points with error bars."""
    labels = isinstance(part["at"].iloc[0], str)
    if explanation.curves is not None:
        own = explanation.curves[explanation.curves["quantity"] == quantity]
        for _, curve in own.groupby("row"):
            axes.plot(_places(curve["at"], labels), curve["value"], "." if labels else "-", color=PALE, linewidth=0.6)
    if labels:
        axes.errorbar(
            _places(part["at"], labels),
            part["value"],
            yerr=2 * part["error"],
            fmt="o",
            color=BLUE,
            ecolor=GREY,
            capsize=2,
        )
        axes.margins(x=0.2)
    else:
        band = part["value"] - 2 * part["error"], part["value"] + 2 * part["error"]
        axes.fill_between(part["at"], *band, color=BLUE, alpha=0.2, lw=0)
        axes.plot(part["at"], part["value"], color=BLUE)
    axes.set_xlabel(part["input"].iloc[0], fontsize=8)


def _places(at: Any, labels: bool) -> Any:
    return [textwrap.fill(one, 16) for one in at] if labels else at
