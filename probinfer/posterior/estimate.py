"""The result of `expect`: a number with its error, and how far both can be trusted."""

from dataclasses import dataclass, field
from html import escape
from typing import Any

import jax
import numpy as np

from probinfer.errors import MethodError
from probinfer.inference.montecarlo.average import Average, t_quantile
from probinfer.posterior.verdict import Finding, Verdict

# Skewness of the terms over the root of their number, the first correction to the normal law of a mean: 0.3 are eleven
# hits of a rare event, where an interval of level 0.9 has a coverage near 0.87; 0.7 are two hits.
SKEWNESS_DOUBTFUL = 0.3
SKEWNESS_BAD = 0.7

# Standard error over the value, up to which an error that is itself uncertain leaves the value right all the same.
NEGLIGIBLE = 1e-4

# Tail shape of the averaged terms: from 0.5 on they have no variance, and the standard error means nothing; above 0.7
# no practical number of draws helps. Vehtari, Simpson, Gelman, Yao, Gabry (2024), JMLR 25(72).
PARETO_K_DOUBTFUL = 0.5
PARETO_K_BAD = 0.7

# Draws below which a standard error is a guess.
ESS_DOUBTFUL = 100
ESS_BAD = 25


@dataclass(frozen=True)
class Estimate:
    """An expectation, estimated.

    value      of the shape that f returns: a number, an array, or a dict of them
    mcse       Monte Carlo standard error, of the same shape
    ess        number of independent draws that would have the same error, of the same shape; NaN where not known
    level      of the interval that is printed; `interval(level)` gives others
    draws      evaluations of f that the value rests on
    dof        degrees of freedom of `mcse`
    method     name of the method, and `settings` it had
    pareto_khat  tail shape of the averaged terms or of the weights, the worst of all; None where there is no tail
    acceptance   share of proposals accepted; None without rejection
    log_evidence, log_evidence_mcse   log of the integral of an unnormalised density, where the method finds it
    verdict    GOOD, DOUBTFUL or BAD; `findings` say why
    reason     which method was taken and why, and what the verdict rests on, in words
    """

    value: Any
    mcse: Any
    ess: Any
    level: float
    draws: int
    dof: float
    method: str
    verdict: Verdict
    reason: str
    findings: tuple[Finding, ...] = ()
    pareto_khat: float | None = None
    acceptance: float | None = None
    log_evidence: float | None = None
    log_evidence_mcse: float | None = None
    seconds: float = field(default=float("nan"), compare=False)

    def interval(self, level: float | None = None) -> tuple[Any, Any]:
        """Lower and upper end of the interval value ± t mcse, t the quantile of Student's t with `dof`.

        level: probability that it covers the expectation, in (0, 1). The law is normal by the central limit theorem,
        which the findings speak against where it has not set in.
        """
        level = self.level if level is None else check_level(level)
        t = t_quantile(level, self.dof)
        low = jax.tree.map(lambda value, error: value - t * error, self.value, self.mcse)
        return low, jax.tree.map(lambda value, error: value + t * error, self.value, self.mcse)

    @property
    def relative_error(self) -> Any:
        """mcse / |value|."""
        with np.errstate(all="ignore"):
            return jax.tree.map(lambda value, error: error / np.abs(np.float64(value)), self.value, self.mcse)

    def __float__(self) -> float:
        return float(self.value)

    def __str__(self) -> str:
        shown = [f"{name}{value:.10g} ± {error:.2g}" for name, value, error, *_ in self._rows()[:8]]
        head = f"{self.verdict.symbol} {self.verdict.name}: " + ", ".join(shown)
        return "\n".join([head, self.reason, *map(str, self.findings)])

    __repr__ = __str__

    def _rows(self) -> list[tuple[Any, ...]]:
        low, high = self.interval()
        trees = (self.value, self.mcse, self.ess, low, high)
        leaves = [jax.tree_util.tree_flatten_with_path(tree)[0] for tree in trees]
        rows = []
        for parts in zip(*leaves, strict=True):
            name = ".".join(str(getattr(key, "key", getattr(key, "idx", key))) for key in parts[0][0])
            arrays = [np.asarray(leaf) for _, leaf in parts]
            for index in np.ndindex(arrays[0].shape):
                label = name + (f"[{', '.join(map(str, index))}]" if index else "")
                rows.append((f"{label} = " if label else "", *(float(array[index]) for array in arrays)))
        return rows

    def _repr_html_(self) -> str:
        percent = f"{100 * self.level:.10g}%"
        head = "".join(f"<th>{text}</th>" for text in ("", "value", "mcse", f"{percent} interval", "ess"))
        body = "".join(
            f"<tr><th>{escape(name.removesuffix(' = '))}</th><td>{value:.8g}</td><td>{error:.2g}</td>"
            f"<td>{low:.6g} … {high:.6g}</td><td>{ess:.0f}</td></tr>"
            for name, value, error, ess, low, high in self._rows()[:24]
        )
        findings = "".join(f"<li>{escape(finding.what)}. {escape(finding.advice)}</li>" for finding in self.findings)
        return (
            f'<div class="probinfer"><b>{self.verdict.symbol} {self.verdict.name}</b> {escape(self.reason)}'
            f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table><ul>{findings}</ul></div>"
        )


def check_level(level: Any) -> float:
    """MethodError unless it is a probability strictly between 0 and 1."""
    if isinstance(level, bool) or not isinstance(level, int | float | np.number) or not 0 < level < 1:
        raise MethodError(f"level is {level!r}; an interval's level is a probability, such as 0.9.")
    return float(level)


def judge_average(average: Average) -> tuple[Finding, ...]:
    """What speaks against an estimate, the worst first."""
    findings = []

    def found(what: str, severity: Verdict, advice: str, value: float) -> None:
        findings.append(Finding(what, "the estimate", severity, advice, value))

    if average.non_finite or not np.isfinite(average.value).all():
        found(
            f"{average.non_finite} values of f are not finite numbers",
            Verdict.BAD,
            "Look for a division by zero, a logarithm of zero or an overflow in f.",
            float(average.non_finite),
        )
    elif np.any(average.constant & np.isin(average.value, (0.0, 1.0))):
        found(
            f"All {average.draws} values of f, or of an entry of it, are the same",
            Verdict.DOUBTFUL,
            "Right if f is constant. If f marks an event, its probability is near 0 or 1 and the error is not known: "
            "use pi.Importance(), with a score that leads to the event.",
            float(average.draws),
        )
    skewness = float(np.max(average.skewness, initial=0.0))
    if skewness > SKEWNESS_DOUBTFUL:
        found(
            f"The average rests on few large terms, about {1 / skewness**2:.0f}: the error is itself uncertain",
            Verdict.BAD if skewness > SKEWNESS_BAD and not _negligible(average) else Verdict.DOUBTFUL,
            "Make more draws, or use pi.Importance() for an event that is rare.",
            skewness,
        )
    k = average.pareto_khat
    if k is not None and not k <= PARETO_K_DOUBTFUL:
        found(
            f"The terms have heavy tails: their Pareto shape is {k:.2f}, it should be below {PARETO_K_DOUBTFUL:g}",
            Verdict.BAD if not k <= PARETO_K_BAD else Verdict.DOUBTFUL,
            "The error is larger than it seems, and there may be no finite expectation. Use pi.Importance() with a "
            "proposal of heavier tails than what is averaged.",
            k,
        )
    sizes = average.ess[np.isfinite(average.ess)]
    if sizes.size and sizes.min() < ESS_DOUBTFUL:
        found(
            f"There are too few effective draws: {sizes.min():.0f}, {ESS_DOUBTFUL} are needed",
            Verdict.BAD if sizes.min() < ESS_BAD else Verdict.DOUBTFUL,
            "Make more draws, or use a proposal that is nearer to the target.",
            float(sizes.min()),
        )
    for fault in average.faults:
        found(fault, Verdict.BAD, "Give a proposal with mass wherever f is not zero, or leave it out.", float("nan"))
    for note in average.notes:
        found(note, Verdict.DOUBTFUL, "Treat the estimate with care; another method would confirm it.", float("nan"))
    return tuple(sorted(findings, key=lambda finding: finding.severity.value))


def _negligible(average: Average) -> bool:
    return bool(np.all(average.mcse <= NEGLIGIBLE * np.abs(average.value)))
