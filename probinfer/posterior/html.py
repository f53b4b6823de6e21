"""Posteriors and reports as notebooks show them. All text that comes from a model is escaped.

Colours are chosen so that the page may be light or dark: text and lines take the page's own colour, the verdict is
white on a saturated ground, and its symbol says the same without colour.
"""

import json
import math
from html import escape
from typing import TYPE_CHECKING

import numpy as np

from probinfer.posterior.diagnose import ESS_PER_CHAIN_DOUBTFUL, R_HAT_DOUBTFUL, judged_chains
from probinfer.posterior.report import Report
from probinfer.posterior.verdict import Finding, Verdict

if TYPE_CHECKING:
    import pandas as pd

    from probinfer.posterior.posterior import Posterior

# Rows of the table; `summary()` has them all.
MAX_ROWS = 24

# White text on each has a contrast of at least 4.5 (WCAG AA).
_COLOURS = {Verdict.GOOD: "#1a7f37", Verdict.DOUBTFUL: "#a15c00", Verdict.BAD: "#c1121f"}

_STYLE = """
<style>
.probinfer{font-family:system-ui,sans-serif;font-size:13px;line-height:1.45;max-width:70em}
.probinfer .badge{display:inline-block;color:#fff;border-radius:4px;padding:1px 9px;font-weight:600}
.probinfer .soft{opacity:.72}
.probinfer .finding{border-left:4px solid;padding:1px 0 1px 10px;margin:8px 0}
.probinfer .wide{overflow-x:auto}
.probinfer table{border-collapse:collapse;margin:10px 0 4px;font-size:inherit;color:inherit}
.probinfer td{font-variant-numeric:tabular-nums}
.probinfer th,.probinfer td{text-align:right;padding:2px 10px;border:none;background:none;color:inherit}
.probinfer th:first-child{text-align:left;font-weight:500}
.probinfer thead th{border-bottom:1px solid;font-weight:600}
.probinfer tbody tr{background:none!important}
.probinfer tbody tr+tr th,.probinfer tbody tr+tr td{border-top:1px solid rgba(128,128,128,.25)}
.probinfer .mark{outline:2px solid #c1121f;outline-offset:-2px;font-weight:600}
.probinfer details td{text-align:left;overflow-wrap:anywhere}
.probinfer summary{cursor:pointer;margin-top:6px}
</style>
"""


def report_html(report: Report) -> str:
    """Verdict, headline, findings."""
    return f'{_STYLE}<div class="probinfer">{_head(report)}{_findings(report)}</div>'


def posterior_html(posterior: "Posterior") -> str:
    """Verdict, findings, summary table, provenance."""
    report = posterior.report
    entries = report.evidence.entries
    shown = posterior.summary().iloc[:MAX_ROWS]
    rest = "" if entries <= MAX_ROWS else _soft(f"{entries - MAX_ROWS} more rows: posterior.summary()")
    table = _table(shown, report) if entries else ""
    return f'{_STYLE}<div class="probinfer">{_head(report)}{_findings(report)}{table}{rest}{_provenance(report)}</div>'


def _head(report: Report) -> str:
    return (
        f'<div><span class="badge" style="background:{_COLOURS[report.verdict]}">{report.verdict.symbol} '
        f"{report.verdict.name}</span> {escape(report.meaning)}</div>"
        f"{_soft(report.headline)}{_soft(report.extremes) if report.extremes else ''}"
    )


def _findings(report: Report) -> str:
    return "".join(map(_finding, report.findings))


def _finding(finding: Finding) -> str:
    return (
        f'<div class="finding" style="border-color:{_COLOURS[finding.severity]}">'
        f"<b>{finding.severity.symbol} {escape(finding.what)}.</b><br>"
        f'<span class="soft">Where:</span> {escape(finding.where)}<br>'
        f'<span class="soft">What to do:</span> {escape(finding.advice)}</div>'
    )


def _table(summary: "pd.DataFrame", report: Report) -> str:
    need = ESS_PER_CHAIN_DOUBTFUL * judged_chains(report.evidence)
    marks = {
        "r_hat": lambda value: value > R_HAT_DOUBTFUL,
        "ess_bulk": lambda value: value < need,
        "ess_tail": lambda value: value < need,
    }
    head = "".join(f"<th>{escape(str(column))}</th>" for column in summary.columns)
    rows = []
    for label, row in summary.iterrows():
        cells = "".join(
            f"<td{' class=mark' if column in marks and marks[column](row[column]) else ''}>{_number(column, row)}</td>"
            for column in summary.columns
        )
        rows.append(f"<tr><th>{escape(str(label))}</th>{cells}</tr>")
    body = "".join(rows)
    return f'<div class="wide"><table><thead><tr><th></th>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _number(column: str, row: "pd.Series") -> str:
    """As many digits as the Monte Carlo error of the mean leaves meaning in."""
    value = row[column]
    if not np.isfinite(value):
        return "–" if np.isnan(value) else f"{value:g}"
    if column.startswith("ess"):
        return f"{value:.0f}"
    if column == "r_hat":
        return f"{value:.3f}"
    error = row["mcse_mean"]
    if column.startswith("mcse"):
        return f"{value:.2g}"
    if not (np.isfinite(error) and error > 0) or abs(value) >= 1e7 or error < 1e-7:
        return f"{value:.4g}"
    return f"{value:.{max(0, math.ceil(-math.log10(error)))}f}"


def _provenance(report: Report) -> str:
    evidence = report.evidence
    facts = {"outcome": report.outcome.value}
    facts |= {f"{stage} s": f"{spent:.3g}" for stage, spent in evidence.seconds.items()}
    facts |= {name: str(value) for name, value in evidence.settings.items()}
    for name in ("seed", "created_at", "data_hash", "model_fingerprint"):
        if name in evidence.attrs:
            facts[name] = str(evidence.attrs[name])
    facts |= {f"{name} version": value for name, value in json.loads(evidence.attrs.get("versions", "{}")).items()}
    rows = "".join(f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>" for name, value in facts.items())
    return f"<details><summary>Provenance</summary><table><tbody>{rows}</tbody></table></details>"


def _soft(text: str) -> str:
    return f'<div class="soft">{escape(text)}</div>'
