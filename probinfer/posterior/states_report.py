"""How far states in time can be trusted, in words. Imports the standard library only."""

from dataclasses import dataclass
from html import escape

from probinfer.posterior.verdict import Finding, Verdict

# Effective particles of a run: below, its law of the states is a guess, or a single particle's.
ESS_DOUBTFUL, ESS_BAD = 20, 3


@dataclass(frozen=True)
class StatesReport:
    """How far filtered states can be trusted: verdict, findings (the worst first), headline."""

    verdict: Verdict
    findings: tuple[Finding, ...]
    headline: str

    def __str__(self) -> str:
        return "\n".join([f"{self.verdict.symbol} {self.verdict.name}: {self.headline}", *map(str, self.findings)])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        items = "".join(f"<li>{escape(str(finding))}</li>" for finding in self.findings)
        head = f"<b>{self.verdict.symbol} {self.verdict.name}</b> {escape(self.headline)}"
        return f'<div class="probinfer">{head}<ul>{items}</ul></div>'
