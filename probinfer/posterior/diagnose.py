"""From draws to a verdict: the findings, each with its place, its size and what to do about it."""

import json
from typing import TYPE_CHECKING

import numpy as np

from probinfer.inference.convergence import MIN_DRAWS, Convergence
from probinfer.inference.draws import Outcome
from probinfer.inference.undefined import NEGLIGIBLE
from probinfer.posterior import hamiltonian, improper
from probinfer.posterior.evidence import NAMED, Evidence, evidence_of_tree, listed
from probinfer.posterior.report import Report
from probinfer.posterior.verdict import Finding, Verdict
from probinfer.posterior.weighted import unweighted

if TYPE_CHECKING:
    import xarray as xr

# Vehtari et al. (2021), sec. 4: use the draws only if R-hat < 1.01. R-hat^2 compares the variance of all chains
# together with that inside one, so 1.05 means a tenth more of it: the chains are, or lately were, in different places.
R_HAT_DOUBTFUL = 1.01
R_HAT_BAD = 1.05

# Vehtari et al. (2021), sec. 4: below 50 effective draws per split chain (100 per chain, 400 for four) neither R-hat
# nor the effective size itself can be trusted. At a quarter of that, the error of a mean is a fifth of the posterior sd
# with one chain and a tenth with four, and these are themselves guesses.
ESS_PER_CHAIN_DOUBTFUL = 100
ESS_PER_CHAIN_BAD = 25

# Hundreds of short chains in superchains need no more effective draws than these together: their R-hat is another.
USUAL_CHAINS = 4

# Replicas of a ladder of temperatures that came all the way from the prior to the posterior: how often it was found
# anew. Fewer than these say little about the shares of modes.
RESTARTS_DOUBTFUL = 20

# Standard deviation of an estimated log likelihood over the posterior. At 1.2 a chain is about most efficient for its
# cost, at 2 its autocorrelation is some ten times that with the exact likelihood, at 3 some hundred times, and no run
# shows how long the longest stay would have been: Doucet, Pitt, Deligiannidis & Kohn (2015), fig. 3.
NOISE_DOUBTFUL = 2.0
NOISE_BAD = 3.0

# Logarithm of the mass around a place where no chain has been, less that of where the chains are, as far as a normal
# law around each tells it. From a twentieth on, it moves means by more than the usual Monte Carlo error.
ELSEWHERE_HIGH = -3.0

# Pareto shape of the importance weights between an approximation and the posterior: Vehtari, Simpson, Gelman, Yao,
# Gabry (2024), "Pareto smoothed importance sampling", JMLR 25(72): above 0.7 no practical sample size corrects it.
PARETO_K_DOUBTFUL = 0.5
PARETO_K_BAD = 0.7

# Share of the mass at modes that an approximation by one normal law leaves out.
ELSEWHERE_DOUBTFUL = 0.01
ELSEWHERE_BAD = 0.1

# Share by which chains without an acceptance step make variances too large: 0.1 is a twentieth of an interval's width.
BIAS_DOUBTFUL = 0.1
BIAS_BAD = 0.3

# Overlap of a component's distribution with that of its match in another chain: less than half of the mass is shared.
OVERLAP_DOUBTFUL = 0.5

# One chain passes every test that compares it with itself, and cannot know of a mode it never saw.
ONE_CHAIN = Verdict.DOUBTFUL


def diagnose(tree: "xr.DataTree") -> Report:
    """Judge a posterior from its tree alone, so that a loaded one can be judged as well as a fresh one.

    tree: ArviZ's schema with the group `posterior`, dims (chain, draw) or (sample,); `sample_stats` and the attributes
    that `to_datatree` writes are used where they are there. Raises ArtifactError if there are no draws in it.
    """
    return judge(evidence_of_tree(tree))


def judge(evidence: Evidence) -> Report:
    """All findings on the evidence, the worst first; the verdict is that of the worst."""
    evidence = evidence.judged()
    numbers = evidence.convergence()
    findings = [
        *_interrupted(evidence),
        *_out_of_budget(evidence),
        *_non_finite(evidence, numbers),
        *_undefined(evidence),
        *improper.widened(evidence),
        *improper.heavier_tails(evidence),
        *_updated(evidence),
        *_start_refused(evidence),
        *_step_bias(evidence),
        *_exchangeable(evidence),
    ]
    if evidence.draws < MIN_DRAWS:
        findings += [*([] if evidence.chained else _approximation(evidence)), *_too_few(evidence)]
    else:
        # causes before their consequences: findings of one severity stay in this order
        findings += [*_never_moved(evidence, numbers), *hamiltonian.divergences(evidence)]
        findings += _elsewhere(evidence)
        findings += _r_hat(evidence, numbers) if evidence.chained else _approximation(evidence)
        findings += [*hamiltonian.energy(evidence), *_effective_size(evidence, numbers)]
        findings += [*hamiltonian.tree_depth(evidence), *_one_chain(evidence), *_restarts(evidence)]
        findings += _noisy_likelihood(evidence)
    if any(finding.severity < Verdict.GOOD for finding in findings):
        findings += improper.runaway(evidence)
    findings.sort(key=lambda finding: finding.severity.value)
    return Report(
        verdict=min((f.severity for f in findings), default=Verdict.GOOD),
        findings=tuple(findings),
        outcome=_outcome(evidence),
        evidence=evidence,
        numbers=numbers,
    )


def _outcome(evidence: Evidence) -> Outcome:
    return Outcome(evidence.attrs.get("outcome", Outcome.COMPLETED.value))


def _interrupted(evidence: Evidence) -> list[Finding]:
    if _outcome(evidence) is not Outcome.INTERRUPTED:
        return []
    wanted = evidence.settings.get("draws")
    of = f" of {wanted}" if wanted is not None else ""
    each = " per chain" if evidence.chained else ""
    return [
        Finding(
            f"The run was interrupted after {evidence.draws}{of} draws{each}",
            "all chains" if evidence.chained else "all draws",
            Verdict.GOOD,
            "The draws that were made are valid; the other findings say whether they are enough.",
            float(evidence.draws),
        )
    ]


def _out_of_budget(evidence: Evidence) -> list[Finding]:
    if _outcome(evidence) is not Outcome.OUT_OF_BUDGET:
        return []
    stopping = json.loads(str(evidence.attrs.get("until", "{}")))
    return [
        Finding(
            f"The stop rule was not met within its budget: {stopping.get('reason', 'reason unknown')}",
            "all chains" if evidence.chained else "all draws",
            Verdict.DOUBTFUL,
            "Give the rule more seconds or draws, or ask for less; with checkpoint= the draws made so far are not "
            "drawn again.",
            float(evidence.draws),
        )
    ]


def _updated(evidence: Evidence) -> list[Finding]:
    """An update inherits the doubts about the draws that it began from."""
    before = Verdict[str(evidence.attrs.get("updated_from", Verdict.GOOD.name))]
    if before is Verdict.GOOD:
        return []
    return [
        Finding(
            f"The posterior that was updated had the verdict {before.name}",
            "all parameters",
            before,
            "Mend that one first, or infer from all the data.",
            float("nan"),
        )
    ]


def _undefined(evidence: Evidence) -> list[Finding]:
    """Of the points that the method looked at."""
    share = float(evidence.attrs.get("undefined", 0.0))
    if not share:
        return []
    return [
        Finding(
            f"The log density is not a number at {share:.2%} of the points looked at: it counted as zero there",
            f"as at {evidence.attrs.get('undefined_at')}",
            Verdict.DOUBTFUL if share > NEGLIGIBLE else Verdict.GOOD,
            "Look there for a logarithm or root of what can be negative, 0/0, or an overflow. If the density is meant "
            "to be zero there, write so: -inf, or a prior with that support.",
            share,
        )
    ]


def _start_refused(evidence: Evidence) -> list[Finding]:
    """Chains that were to begin at an approximation's draws and did not."""
    why = evidence.attrs.get("init_refused")
    if not why:
        return []
    return [
        Finding(
            f"The chains did not begin at the draws of {evidence.attrs.get('init')}, far off: {why} of its draws",
            "all chains",
            Verdict.GOOD,
            "They began at random points instead, which is as good; leave init out, or take a richer approximation.",
            float(evidence.attrs.get("init_khat", np.nan)),
        )
    ]


def _step_bias(evidence: Evidence) -> list[Finding]:
    """Chains without an acceptance step are too wide, by how much they tell."""
    bias = evidence.attrs.get("step_bias")
    if bias is None:
        return []
    method = evidence.attrs.get("method", "the method")
    if not np.isfinite(bias):
        return [
            Finding(
                "The chains ran off to where the log density is no number: nothing is known of the step's bias",
                "all parameters",
                Verdict.BAD,
                "The curvature at the mode says little of this posterior; use NUTS, or tighter priors.",
                float(bias),
            )
        ]
    severity = Verdict.GOOD if bias <= BIAS_DOUBTFUL else Verdict.DOUBTFUL if bias <= BIAS_BAD else Verdict.BAD
    return [
        Finding(
            f"The finite step makes variances too large, by {float(bias):.1%} in the worst direction",
            "all parameters",
            severity,
            f"For less, give {method} a smaller bias or a larger minibatch; with bias=0 in mind, use NUTS.",
            float(bias),
        )
    ]


def _elsewhere(evidence: Evidence) -> list[Finding]:
    """A place that scouts found, described by the parameter that is furthest from all its draws."""
    if "elsewhere" not in evidence.attrs:
        return []
    place: dict[str, list[float]] = json.loads(str(evidence.attrs["elsewhere"]))
    at = np.concatenate([place[v.site] if v.latent else np.full(v.entries, np.nan) for v in evidence.variables])
    draws = evidence.block(0, evidence.entries)
    low, high = draws.min((1, 2)), draws.max((1, 2))
    beyond = np.maximum(at - high, low - at) / np.where(high > low, high - low, 1.0)
    furthest = int(np.nanargmax(beyond))
    gain, scouts, of = (float(evidence.attrs[f"elsewhere_{name}"]) for name in ("gain", "scouts", "of"))
    return [
        Finding(
            f"{scouts:.0f} of {of:.0f} short runs from other starting points stayed where no chain has been: there "
            f"{evidence.label(furthest)} is {at[furthest]:.3g}, the chains have {low[furthest]:.3g} to "
            f"{high[furthest]:.3g}; its mass is {_times(gain)} theirs, roughly",
            evidence.label(furthest),
            Verdict.BAD if gain > ELSEWHERE_HIGH else Verdict.DOUBTFUL,
            "The posterior has another mode, and these draws are from one alone. pi.Tempering() and pi.SMC() find the "
            "shares of several; or order the parameters, or give a prior that decides.",
            gain,
        )
    ]


def _times(log_ratio: float) -> str:
    """A ratio in words."""
    return f"{np.exp(log_ratio):.2g} times" if abs(log_ratio) < 20 else f"exp({log_ratio:.0f}) times"


def _exchangeable(evidence: Evidence) -> list[Finding]:
    """Components without an order: what was judged, and whether the chains found the same ones."""
    what = evidence.attrs.get("exchangeable")
    if not what:
        return []
    findings = [
        Finding(
            f"The {what} have no order, so what is judged does not depend on their numbers",
            ", ".join(variable.name for variable in evidence.variables),
            Verdict.GOOD,
            f"Nothing: the {what} of the chains are matched by their resemblance for the tables.",
            float("nan"),
        )
    ]
    overlap = evidence.numbers_of("topic_overlap")
    apart = np.flatnonzero(overlap < OVERLAP_DOUBTFUL)
    if len(apart):
        findings.append(
            Finding(
                f"{len(apart)} of {len(overlap)} {what} are not found by every chain: the worst match shares "
                f"{overlap.min():.0%} of its mass",
                listed([str(topic) for topic in apart], len(apart)),
                Verdict.DOUBTFUL,
                "Do not read meaning into these. Ask for fewer, or warm up for longer.",
                float(overlap.min()),
            )
        )
    return findings


def _too_few(evidence: Evidence) -> list[Finding]:
    each = " per chain" if evidence.chained else ""
    return [
        Finding(
            f"There are {evidence.draws} draws{each}: too few to say anything",
            "all parameters",
            Verdict.BAD,
            f"Make at least {ESS_PER_CHAIN_DOUBTFUL} effective draws per chain; 1000 draws are usual.",
            float(evidence.draws),
        )
    ]


def _non_finite(evidence: Evidence, numbers: Convergence) -> list[Finding]:
    """Infinite or undefined draws: of a parameter a failure, of a deterministic site perhaps meant."""
    findings = []
    broken = np.flatnonzero(~numbers.finite)
    for latent in (True, False):
        entries = [int(e) for e in broken if evidence.variable_of(int(e)).latent is latent]
        if not entries:
            continue
        count = max(int((~np.isfinite(evidence.block(e, e + 1))).sum()) for e in entries[:NAMED])
        advice = (
            "Look for a parameter that runs away: an improper or very wide prior, or an overflow; "
            "standardise the data, tighten the prior, or use float64."
            if latent
            else "The model divides by zero or takes the logarithm of zero there; its summaries are undefined."
        )
        findings.append(
            Finding(
                f"{count} draws or fewer are not finite numbers, in each of "
                f"{_counted(len(entries), 'parameter' if latent else 'deterministic value')}",
                evidence.names(entries),
                Verdict.BAD if latent else Verdict.DOUBTFUL,
                advice,
                float(count),
            )
        )
    return findings


def _never_moved(evidence: Evidence, numbers: Convergence) -> list[Finding]:
    """Chains that stayed where they began, and single parameters that did.

    Not everything constant is stuck. The zeros of a Cholesky factor and the ones of a correlation matrix are constant
    because of what they are, as are a discrete parameter whose value is certain and a deterministic site that computes
    a constant. So a parameter's entry counts as stuck unless it is an integer, or it is 0, 1 or -1 while other entries
    of the same parameter move.
    """
    if not evidence.chained:
        return []
    latent = np.array([evidence.variable_of(e).latent for e in range(evidence.entries)], dtype=bool)
    still = [int(c) for c in np.flatnonzero(numbers.stuck[latent].all(axis=0))] if latent.any() else []
    findings = []
    if still:
        findings.append(
            Finding(
                f"{len(still)} of {evidence.chains} chains never moved: all their draws are the same",
                "chain " + ", ".join(map(str, still)),
                Verdict.BAD,
                "Every proposal was rejected. The step size is far too large for the scale of the parameters, or the "
                "start has a log density that is not finite: standardise the data, give the priors the right scale, "
                "warm up for longer.",
                float(len(still)),
            )
        )
    if len(still) == evidence.chains:
        return findings
    same = (int(entry) for entry in np.flatnonzero(numbers.constant & latent))
    stuck = [entry for entry in same if not _constant_by_nature(evidence, numbers, entry)]
    if stuck:
        findings.append(
            Finding(
                f"Every draw of every chain has the same value, for {_counted(len(stuck), 'parameter')}",
                evidence.names(stuck),
                Verdict.BAD,
                "They were never updated, or they are numerically fixed (an underflow to a bound). If one is meant "
                "to be fixed, make it data or a deterministic site.",
                float(len(stuck)),
            )
        )
    return findings


def _constant_by_nature(evidence: Evidence, numbers: Convergence, entry: int) -> bool:
    variable = evidence.variable_of(entry)
    if variable.values.dtype.kind in "iub":
        return True
    first = int(evidence.offsets[np.searchsorted(evidence.offsets, entry, side="right") - 1])
    siblings = numbers.constant[first : first + variable.entries]
    at_a_landmark = bool(np.isclose(abs(numbers.mean[entry]), [0.0, 1.0], rtol=1e-6, atol=0.0).any())
    return at_a_landmark and not siblings.all()


def judged_chains(evidence: Evidence) -> int:
    """As many chains as the effective draws wanted are those of."""
    return USUAL_CHAINS if evidence.superchains else evidence.chains


def _effective_size(evidence: Evidence, numbers: Convergence) -> list[Finding]:
    sizes = np.fmin(numbers.ess_bulk, numbers.ess_tail)
    chains = judged_chains(evidence)
    need, least = ESS_PER_CHAIN_DOUBTFUL * chains, ESS_PER_CHAIN_BAD * chains
    low = np.flatnonzero(sizes < need)
    if not low.size:
        return []
    low = low[np.argsort(sizes[low])]
    worst = float(sizes[low[0]])
    tail = numbers.ess_tail[low[0]] < numbers.ess_bulk[low[0]]
    many = int(np.ceil(evidence.draws * need / worst * 1.2 / 100) * 100)
    each = " per chain" if evidence.chained else ""
    advice = f"Run longer, about {many} draws{each}, unless another finding names a cause: then that comes first."
    if np.nanmax(numbers.r_hat, initial=1.0) > R_HAT_BAD:
        advice = "This follows from the R-hat: draws of chains that are apart count for little. That comes first."
    elif many > 20 * evidence.draws:
        advice = (
            "Running longer alone will not do. Reparameterise so that the parameters named are less correlated with "
            "the others, or give them tighter priors; if another finding names a cause, that comes first."
        )
    return [
        Finding(
            f"There are too few effective draws for {low.size} of {_counted(evidence.entries, 'parameter')}: "
            f"{worst:.0f} in the {'tail' if tail else 'bulk'} at worst, {need} are needed",
            evidence.names(low),
            Verdict.BAD if worst < least else Verdict.DOUBTFUL,
            advice,
            worst,
        )
    ]


def _r_hat(evidence: Evidence, numbers: Convergence) -> list[Finding]:
    high = np.flatnonzero(numbers.r_hat > R_HAT_DOUBTFUL)
    if not high.size:
        return []
    high = high[np.argsort(-numbers.r_hat[high], kind="stable")]
    worst = float(numbers.r_hat[high[0]])
    bad = worst > R_HAT_BAD
    said, advice = _disagreement(evidence, int(high[0]))
    if not bad:
        said = "The chains have not quite mixed"
        advice = (
            "Run longer, at least twice as many draws, unless another finding names a cause: then that comes first."
        )
    return [
        Finding(
            f"{said}: R-hat is {worst:.3f} at worst and above {R_HAT_DOUBTFUL} for {high.size} of "
            f"{_counted(evidence.entries, 'parameter')}",
            evidence.names(high),
            Verdict.BAD if bad else Verdict.DOUBTFUL,
            advice,
            worst,
        )
    ]


def _disagreement(evidence: Evidence, entry: int) -> tuple[str, str]:
    """Whether the chains sit in different places or each is still on its way; R-hat alone does not tell."""
    x = evidence.block(entry, entry + 1)[0]
    half = x.shape[1] // 2
    halves = np.stack([x[:, :half].mean(axis=1), x[:, -half:].mean(axis=1)], axis=1)
    between = x.mean(axis=1).var(ddof=1) if len(x) > 1 else 0.0
    if between > halves.var(axis=1, ddof=1).mean():
        means = ", ".join(f"{m:.3g}" for m in x.mean(axis=1)[:8]) + (", …" if len(x) > 8 else "")
        return (
            f"The chains disagree, {evidence.label(entry)} has the means {means}",
            "There may be several modes, or parameters that can be exchanged with one another (label switching): order "
            "them, break the symmetry with a prior, or use a method for several modes.",
        )
    return (
        "The chains drift: their first and second halves differ",
        "If draws diverged or the energy moves slowly, mend that first. Otherwise warm up for longer, and rescale the "
        "model so that parameters are of the order of one.",
    )


def _one_chain(evidence: Evidence) -> list[Finding]:
    if evidence.chains > 1 or not evidence.chained:
        return []
    return [
        Finding(
            "There is one chain: R-hat compares its two halves and cannot show several modes",
            "all parameters",
            ONE_CHAIN,
            "Run four chains from different starts.",
            1.0,
        )
    ]


def _restarts(evidence: Evidence) -> list[Finding]:
    """Of a ladder of temperatures."""
    restarts = int(evidence.attrs.get("restarts", RESTARTS_DOUBTFUL))
    if restarts >= RESTARTS_DOUBTFUL:
        return []
    return [
        Finding(
            f"{restarts} replicas came from the prior down to the posterior; {RESTARTS_DOUBTFUL} are needed",
            "all parameters",
            Verdict.DOUBTFUL,
            "The shares of several modes may be off. Draw more, warm up for longer, or set more temperatures.",
            float(restarts),
        )
    ]


def _noisy_likelihood(evidence: Evidence) -> list[Finding]:
    """Of chains whose likelihood is estimated: a lucky estimate is not left for long, so that they stick."""
    sd = float(evidence.attrs.get("log_likelihood_sd", 0.0))
    refresh = float(evidence.attrs.get("refresh", 1.0))  # of the noise in both estimates this share is new
    noise = sd * np.sqrt(refresh)
    if noise <= NOISE_DOUBTFUL:
        return []
    particles, stay = int(evidence.attrs.get("particles", 0)), int(evidence.attrs.get("longest_stay", 1))
    much = f"{int(np.ceil(particles * min(noise**2 / 1.5, 100.0)))}" if np.isfinite(noise) else "many times as many"
    return [
        Finding(
            f"The log likelihood that {particles} particles estimate has a standard deviation of {sd:.2g} over the "
            f"posterior: chains stick, one stood still for {stay} of {evidence.draws} draws",
            "all parameters",
            Verdict.BAD if not noise <= NOISE_BAD else Verdict.DOUBTFUL,
            f"Use about {much} particles, or a proposal= that sees the observation.",
            sd,
        )
    ]


def _approximation(evidence: Evidence) -> list[Finding]:
    """Independent draws are only as good as the distribution they come from, and the method has to say how good.

    It does so by an attribute: `exact` for a closed form, or `pareto_khat`, the shape of the importance weights.
    """
    if evidence.attrs.get("exact"):
        return _bound_raised(evidence)
    k = evidence.attrs.get("pareto_khat")
    if k is None:
        return [
            Finding(
                "The draws come from an approximation, and nothing tells how close it is to the posterior",
                "all parameters",
                Verdict.DOUBTFUL,
                "Compare with a method whose error can be measured, such as NUTS.",
                float("nan"),
            )
        ]
    findings = [*_left_out(evidence), *unweighted(evidence)]
    if k <= PARETO_K_DOUBTFUL:
        return findings
    return [
        Finding(
            f"The approximation is off: the Pareto shape of its importance weights is {k:.2f}, "
            f"it should be below {PARETO_K_DOUBTFUL:g}",
            "all parameters",
            Verdict.BAD if not k <= PARETO_K_BAD else Verdict.DOUBTFUL,
            "Use a richer approximation or NUTS.",
            float(k),
        ),
        *findings,
    ]


def _left_out(evidence: Evidence) -> list[Finding]:
    """What a method knows of its approximation and weights cannot show."""
    findings = []
    flat = int(evidence.attrs.get("flat_directions", 0))
    if flat:
        findings.append(
            Finding(
                f"The log density has no peak where its search ended: it is flat in {_counted(flat, 'direction')}",
                "all parameters",
                Verdict.BAD,
                "Standardise the data, tighten wide priors, look for parameters that only their sum determines; "
                "or use NUTS.",
                float(flat),
            )
        )
    elsewhere = float(evidence.attrs.get("mass_elsewhere", 0.0))
    if elsewhere > ELSEWHERE_DOUBTFUL:
        findings.append(
            Finding(
                f"There are several modes: about {elsewhere:.0%} of the mass is not at the one that was taken",
                "all parameters",
                Verdict.BAD if elsewhere > ELSEWHERE_BAD else Verdict.DOUBTFUL,
                "Use a method for several modes, such as pi.Importance().",
                elsewhere,
            )
        )
    unsettled = float(evidence.attrs.get("unsettled", 0.0))
    limit = float(evidence.attrs.get("settled_below", np.inf))
    if unsettled > limit:
        findings.append(
            Finding(
                "The optimum is not settled: "
                + (
                    f"the last two fits differ by {unsettled:.2g} standard deviations, {limit:g} are allowed"
                    if np.isfinite(unsettled)
                    else "the search did not arrive, or was made once only"
                ),
                "all parameters",
                Verdict.DOUBTFUL,
                "Give it more rounds or points, or a larger batch of rows; standardise the data; or use NUTS.",
                unsettled,
            )
        )
    rising = float(evidence.attrs.get("still_rising", 0.0))
    if rising:
        findings.append(
            Finding(
                f"The bound was still rising when the steps were over, by {rising:.2g} nats in the last few hundred",
                "all parameters",
                Verdict.DOUBTFUL,
                "Give it more steps; standardise the data; or use NUTS.",
                rising,
            )
        )
    return findings


def _bound_raised(evidence: Evidence) -> list[Finding]:
    """Rejection is exact under its bound; one that was found too low once may be too low still."""
    raised = int(evidence.attrs.get("bound_raised", 0))
    if not raised:
        return []
    return [
        Finding(
            f"The bound of the rejection was exceeded and raised, {_counted(raised, 'time')}",
            "all parameters",
            Verdict.DOUBTFUL,
            "The likelihood has several maxima. Give log_bound, or compare with pi.Importance().",
            float(raised),
        )
    ]


def _counted(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}"
