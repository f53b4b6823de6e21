"""The report on a posterior: verdict, findings and the numbers behind them, as text, table and HTML."""

import functools
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from probinfer.inference.convergence import Convergence
from probinfer.inference.draws import Outcome
from probinfer.posterior.evidence import Evidence
from probinfer.posterior.verdict import Finding, Verdict

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = ("mean", "sd", "ess_bulk", "ess_tail", "r_hat", "mcse_mean", "mcse_sd")


def convergence_table(evidence: Evidence, numbers: Convergence) -> "pd.DataFrame":
    """Convergence statistics with the names of the scalars they belong to."""
    import pandas as pd

    labels = [evidence.label(entry) for entry in range(evidence.entries)]
    return pd.DataFrame({name: getattr(numbers, name) for name in COLUMNS}, index=labels)


@dataclass(frozen=True, eq=False)
class Report:
    """How far a posterior can be trusted, and why.

    verdict    the severity of the worst finding; GOOD if there is none
    findings   what was found, the worst first
    outcome    how the run ended
    table      a row per scalar parameter: mean sd ess_bulk ess_tail r_hat mcse_mean mcse_sd (pandas)

    `print(report)` says it in words; a notebook shows it as HTML.
    """

    verdict: Verdict
    findings: tuple[Finding, ...]
    outcome: Outcome
    evidence: Evidence = field(repr=False)
    numbers: Convergence = field(repr=False)

    @functools.cached_property
    def table(self) -> "pd.DataFrame":
        """Convergence statistics, one row per scalar parameter. NaN where there is no such number: constants, R-hat of
        independent draws. `probinfer.inference.convergence.Convergence` says what each column is.
        """
        return convergence_table(self.evidence, self.numbers)

    @property
    def headline(self) -> str:
        """Where the draws come from: method, chains, draws, parameters, seconds."""
        evidence = self.evidence
        method = evidence.attrs.get("method", "unknown method")
        if evidence.chained:
            plural = "s" if evidence.chains != 1 else ""
            size = f"{evidence.chains} chain{plural} × {evidence.draws} draws"
        else:
            size = f"{evidence.draws} draws"
        text = f"{method}, {size}, {evidence.entries} parameter{'s' if evidence.entries != 1 else ''}"
        seconds = evidence.seconds.get("total", sum(evidence.seconds.values()))
        reason = evidence.attrs.get("method_chosen")
        chosen = f" (method chosen: {reason})" if reason else ""
        return f"{text}, {seconds:.3g} s{chosen}" if seconds else text + chosen

    @property
    def extremes(self) -> str:
        """The largest R-hat and the smallest effective sizes, with the parameters they belong to."""
        parts = []
        for name, values, pick in (
            ("largest R-hat", self.numbers.r_hat, np.nanargmax),
            ("smallest ESS bulk", self.numbers.ess_bulk, np.nanargmin),
            ("tail", self.numbers.ess_tail, np.nanargmin),
        ):
            if not np.isnan(values).all():
                entry = int(pick(values))
                number = f"{values[entry]:.3f}" if "R-hat" in name else f"{values[entry]:.0f}"
                parts.append(f"{name} {number} ({self.evidence.label(entry)})")
        return ", ".join(parts)

    @property
    def meaning(self) -> str:
        """The verdict in a sentence."""
        return {
            Verdict.GOOD: "nothing speaks against using these draws",
            Verdict.DOUBTFUL: "read the findings before using these draws",
            Verdict.BAD: "do not use these draws",
        }[self.verdict]

    def __str__(self) -> str:
        head = f"{self.verdict.symbol} {self.verdict.name}: {self.meaning}\n{self.headline}"
        return "\n".join([head, *filter(None, [self.extremes]), *("\n" + str(finding) for finding in self.findings)])

    def _repr_html_(self) -> str:
        from probinfer.posterior.html import report_html

        return report_html(self)
