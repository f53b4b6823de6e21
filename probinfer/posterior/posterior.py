"""The result of inference: named draws, how far they can be trusted, and where they come from."""

import difflib
import functools
import json
import os
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from probinfer.errors import ArtifactError, MethodError, ModelError
from probinfer.inference.draw import data_hash, draw_update, model_fingerprint
from probinfer.inference.montecarlo.smc import SMC
from probinfer.model.model import BoundModel, Model
from probinfer.model.tables import as_table
from probinfer.posterior.datatree import build_tree, run_attrs
from probinfer.posterior.diagnose import judge
from probinfer.posterior.evidence import Evidence, evidence_of_draws, evidence_of_tree, judged_of_draws
from probinfer.posterior.layout import Variable
from probinfer.posterior.report import Report, convergence_table
from probinfer.posterior.storage import read_tree, write_tree

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

    from probinfer.inference.draws import Draws
    from probinfer.model.target import Target

# Level of intervals unless another is asked for: ArviZ's `stats.ci_prob`. It is in the name of every column.
DEFAULT_LEVEL = 0.89

# Scalars whose quantiles are computed at a time.
_BLOCK = 64


def _given(made: Any) -> Any:
    return made


class Posterior:
    """What was learned: draws of every parameter, with their doubt and their provenance.

    tree      xarray.DataTree of ArviZ's schema, for `az.plot_trace_dist(posterior.tree)`, `az.loo(posterior.tree)`, …
    report    verdict, findings and convergence statistics
    latents   draws of the parameters as plain arrays
    model     the model; None for a posterior loaded without it
    data      the data, by the model's argument names; None for a posterior loaded without them

    Made by `infer` and by `load_posterior`. Everything is computed when first asked for and then kept: the verdict
    needs neither xarray nor the log likelihood, which the tree does.
    """

    def __init__(
        self,
        *,
        judged: Callable[[], Evidence],
        everything: Callable[[], Evidence],
        tree: Callable[[], "xr.DataTree"],
        model: "Model | None",
        data: Mapping[str, Any] | None,
    ) -> None:
        self.model = model
        self.data = data
        self._make_judged = judged
        self._make_everything = everything
        self._make_tree = tree

    @classmethod
    def from_draws(
        cls,
        draws: "Draws",
        target: "Target",
        *,
        model: "Model | None",
        data: Mapping[str, Any] | None,
        attrs: Mapping[str, Any],
    ) -> Self:
        """The posterior of a run.

        attrs: provenance beyond what the draws know: seed, model_fingerprint, …; see `to_datatree`.
        """
        known = run_attrs(draws, attrs)
        judged = functools.cache(lambda: judged_of_draws(draws, target, known))

        @functools.cache
        def everything() -> Evidence:
            complete = len(judged().variables) == len(target.latents) + len(target.deterministics)
            return judged() if complete else evidence_of_draws(draws, target, known)

        return cls(
            judged=judged,
            everything=everything,
            tree=lambda: build_tree(everything(), draws, target),
            model=model,
            data=data,
        )

    @classmethod
    def from_tree(
        cls, tree: "xr.DataTree", *, model: "Model | None" = None, data: Mapping[str, Any] | None = None
    ) -> Self:
        """The posterior in a tree of ArviZ's schema."""
        everything = functools.cache(lambda: evidence_of_tree(tree))
        return cls(
            judged=lambda: everything().judged(), everything=everything, tree=lambda: tree, model=model, data=data
        )

    def __getstate__(self) -> dict[str, Any]:
        """For other processes, as workers of `cross_validate(executor=)` are: what was made, not how to make it."""
        self._make_judged = functools.partial(_given, self._make_judged())
        self._make_everything = functools.partial(_given, self._make_everything())
        self._make_tree = functools.partial(_given, self.tree)
        return self.__dict__

    @functools.cached_property
    def tree(self) -> "xr.DataTree":
        """Groups posterior, sample_stats, log_likelihood, observed_data, constant_data; provenance in `tree.attrs`."""
        return self._make_tree()

    @functools.cached_property
    def report(self) -> Report:
        """How far the draws can be trusted: `.verdict`, `.findings`, `.table`, `.outcome`."""
        return judge(self._make_judged())

    @functools.cached_property
    def latents(self) -> dict[str, np.ndarray]:
        """Draws of the parameters by site name, each (draws, *shape), chain after chain."""
        evidence = self._make_judged()
        count = evidence.chains * evidence.draws
        return {v.site: v.values.reshape(count, *v.shape) for v in evidence.variables if v.latent}

    def sites(self) -> Evidence:
        """Draws of all sites with their names, deterministic ones too."""
        return self._make_everything()

    def summary(self, *, level: float = DEFAULT_LEVEL, var_names: str | Iterable[str] | None = None) -> "pd.DataFrame":
        """One row per scalar parameter: mean, sd, equal-tailed interval, effective sizes, R-hat, Monte Carlo errors.

        level      probability of the interval, between 0 and 1; it is in the column names, `eti89_lb` and `eti89_ub`
        var_names  the variables wanted; by default all that the verdict rests on (parameters, and deterministic sites
                   unless they are thousands of numbers)

        The columns are called as in `az.summary(posterior.tree)` and agree with it, but are not rounded. `ess_tail` is
        that of the 5% and 95% quantiles, as in Vehtari et al. (2021) and Stan, where ArviZ 1.x takes 11% and 89%.
        For highest-density intervals: `az.hdi(posterior.tree, prob=level)`.
        Raises ModelError for an unknown variable, MethodError for a level outside (0, 1).
        """
        import pandas as pd

        if isinstance(level, bool) or not 0 < level < 1:
            raise MethodError(f"level is {level!r}; an interval's level is a probability, such as 0.89.")
        if var_names is None:
            table, evidence = self.report.table, self.report.evidence
        else:
            wanted = [var_names] if isinstance(var_names, str) else list(var_names)
            evidence = self._make_everything().of(self._chosen(wanted))
            table = convergence_table(evidence, evidence.convergence())
        lower, upper = _interval(evidence, level)
        name = f"eti{100 * level:.10g}"
        interval = pd.DataFrame({f"{name}_lb": lower, f"{name}_ub": upper}, index=table.index)
        return pd.concat([table[["mean", "sd"]], interval, table.drop(columns=["mean", "sd"])], axis=1)

    def update(self, new_data: Any, *, method: SMC | None = None, seed: Any = 0, progress: bool = True) -> "Posterior":
        """The posterior given new data too, by leading these draws there instead of beginning anew.

            p_β(θ) ∝ p(θ | data) (p(θ | data, new data) / p(θ | data))^β,   β from 0 to 1, by sequential Monte Carlo

        new_data    dict or data frame with new rows: arrays are appended along their first axis to those of the same
                    name, single values replace them; names left out stay as they are
        method      `SMC` with its settings
        seed        whole number or jax key

        Its attributes hold `log_evidence_increment`, log p(new data | data), with `log_evidence_increment_mcse`, the
        sum `log_evidence` if this posterior has one, and `updated_from`, the verdict of this posterior, which
        the report remembers. The model is traced and compiled anew for the new shapes: worth it where sampling takes
        longer.

        Raises ModelError if this posterior was loaded without its model, or if the new data change the shape of a
        parameter; DataError if they do not fit; MethodError if nearly no draw has mass given the new data.
        Fails where the new data move the posterior further than the draws reach: the chains disagree.
        Chopin (2002), Biometrika 89(3).
        """
        if self.model is None or self.data is None:
            raise ModelError("This posterior was loaded without its model: load_posterior(path, model, data).")
        draws, target, attrs = draw_update(
            self.model, self.data, new_data, self.latents, method or SMC(), seed=seed, progress=progress
        )
        increment, error = attrs.pop("log_evidence"), attrs.pop("log_evidence_mcse")
        attrs |= {"log_evidence_increment": increment, "log_evidence_increment_mcse": error}
        known = self.report.evidence.attrs
        if "log_evidence" in known:
            before = float(known.get("log_evidence_mcse", 0.0))
            attrs |= {
                "log_evidence": float(known["log_evidence"]) + increment,
                "log_evidence_mcse": float(np.hypot(before, error)),
            }
        attrs["updated_from"] = self.report.verdict.name
        return Posterior.from_draws(draws, target, model=target.bound.model, data=target.bound.data, attrs=attrs)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Save as one NetCDF file, which `load_posterior`, `az.from_netcdf` and `xarray.open_datatree` read.

        An existing file is replaced only once the new one is complete. Raises OSError if it cannot be written: the
        disk is full, the folder is missing or not writable.
        """
        write_tree(self.tree, path)

    def _chosen(self, names: list[str]) -> list[Variable]:
        variables = self._make_everything().variables
        by_name = {key: variable for variable in variables for key in (variable.name, variable.site)}
        for name in names:
            if name not in by_name:
                close = difflib.get_close_matches(name, by_name, n=1)
                hint = f" Did you mean '{close[0]}'?" if close else ""
                have = ", ".join(variable.name for variable in variables)
                raise ModelError(f"the posterior has no variable '{name}', it has {have}.{hint}")
        return [by_name[name] for name in dict.fromkeys(names)]

    def __repr__(self) -> str:
        report = self.report
        trouble = sum(finding.severity is report.verdict for finding in report.findings)
        found = f", {trouble} finding{'s' if trouble != 1 else ''}" if trouble else ""
        return f"Posterior({report.verdict.name}{found}: {report.headline})"

    def _repr_html_(self) -> str:
        from probinfer.posterior.html import posterior_html

        return posterior_html(self)


def load_posterior(path: str | os.PathLike[str], model: Any = None, data: Any = None) -> Posterior:
    """Read a posterior that `Posterior.save` wrote. The file is read whole and runs no code.

    model, data: what the posterior was inferred from, if more is to be done with it than look, such as making a
    predictor; a file holds the draws, not the function. They are checked against what the file says.
    Raises ArtifactError if the file is missing, damaged, not a posterior, from a later version, or the posterior of
    another model or of other data.
    """
    tree = read_tree(path)
    if model is None:
        return Posterior.from_tree(tree)
    data = as_table(data)
    model = (model if isinstance(model, Model) else Model(model)).with_order_of(data)
    bound = model.bind(data)
    _check_origin(path, {str(name): value for name, value in tree.attrs.items()}, bound)
    return Posterior.from_tree(tree, model=model, data=bound.data)


def _check_origin(path: str | os.PathLike[str], attrs: Mapping[str, Any], bound: BoundModel) -> None:
    settings = json.loads(attrs.get("settings", "{}"))
    given = {
        "data_hash": data_hash(bound),
        "model_fingerprint": model_fingerprint(bound, attrs.get("method", ""), float64=settings.get("float64", True)),
    }
    for name, what, todo in (
        ("data_hash", "of other data", "Pass the data it was inferred from"),
        ("model_fingerprint", "of another model", "Pass the model it was inferred from"),
    ):
        if name in attrs and attrs[name] != given[name]:
            raise ArtifactError(
                f"{path} is the posterior {what}: it says {str(attrs[name])[:12]}…, what is given is "
                f"{given[name][:12]}…. {todo}, or infer again. (A model may also be traced differently by another "
                f"version of JAX or NumPyro; the file is from {attrs.get('versions', 'unknown versions')}.)"
            )


def _interval(evidence: Evidence, level: float) -> tuple[np.ndarray, np.ndarray]:
    """Equal-tailed interval of every scalar."""
    ends = np.full((2, evidence.entries), np.nan)
    if evidence.draws:
        for start in range(0, evidence.entries, _BLOCK):
            stop = min(start + _BLOCK, evidence.entries)
            draws = evidence.block(start, stop).reshape(stop - start, -1)
            with np.errstate(invalid="ignore"):  # infinities: the interval's end is not a number
                ends[:, start:stop] = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2], axis=1)
    return ends[0], ends[1]
