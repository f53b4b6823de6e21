"""The 26 reference posteriors by name: model, data, and the trusted answer.

The files live outside the repository (posteriordb, BSD 3-clause); `folder()` says where they are looked for. Each
entry turns a raw data file into the keyword arguments of its model: one-based indices become zero-based, design
matrices are built, unused fields are dropped. Imports the models, numpy and the standard library only.
"""

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from benchmarks.reference import hierarchical, regression, sequence

Raw = Mapping[str, object]
Arrays = Mapping[str, np.ndarray]


def folder() -> Path:
    """Where the reference posteriors lie: $PROBINFER_POSTERIORDB, else shared/posteriordb beside the repository."""
    given = os.environ.get("PROBINFER_POSTERIORDB")
    return Path(given) if given else Path(__file__).resolve().parents[3] / "shared" / "posteriordb"


@dataclass(frozen=True)
class Entry:
    """One reference posterior.

    model: the NumPyro function. data_file: name under data/. prepare: raw JSON -> keyword arguments of the model.
    latents: constrained reference draws by parameter -> the model's latent sites (the identity unless the model is
    written in another parameterisation). coords, dims: labels as pi.Model takes them.
    """

    name: str
    model: Callable
    data_file: str
    prepare: Callable[[Raw], dict]
    latents: Callable[[Arrays], Arrays] = lambda draws: draws
    coords: Mapping[str, object] = field(default_factory=dict)
    dims: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def data(self, root: Path | None = None) -> dict:
        """The model's keyword arguments."""
        path = (root or folder()) / "data" / f"{self.data_file}.json"
        return self.prepare(json.loads(path.read_text()))

    def reference(self, root: Path | None = None) -> dict[str, dict[str, float]]:
        """Trusted summaries by scalar: mean, sd, q05, q50, q95, mcse_mean, ess_bulk."""
        path = (root or folder()) / "reference" / f"{self.name}.json"
        return json.loads(path.read_text())["parameters"]

    def draws(self, root: Path | None = None) -> dict[str, np.ndarray]:
        """1000 of the reference draws by parameter, each (1000, *shape), float64."""
        with np.load((root or folder()) / "reference" / f"{self.name}.npz", allow_pickle=False) as file:
            return {name: file[name].astype(np.float64) for name in file.files}


def scalars(draws: Arrays, sample_axes: int = 1) -> dict[str, np.ndarray]:
    """Draws (…, *shape) by parameter -> draws by scalar, named as the references are: beta[1], beta[2], sigma.

    sample_axes: how many leading axes count draws (1, or 2 for chain and draw).
    """
    named = {}
    for name, value in draws.items():
        value = np.asarray(value)
        if value.ndim == sample_axes:
            named[name] = value
        else:
            named |= {f"{name}[{i + 1}]": value[..., i] for i in range(value.shape[-1])}
    return named


def column(raw: Raw, name: str) -> np.ndarray:
    return np.asarray(raw[name], dtype=np.float64)


def counts(raw: Raw, name: str) -> np.ndarray:
    return np.asarray(raw[name], dtype=np.int32)


def zero_based(raw: Raw, name: str) -> np.ndarray:
    return counts(raw, name) - 1


def design(*columns: np.ndarray) -> np.ndarray:
    """Design matrix with a leading column of ones."""
    return np.column_stack([np.ones(len(columns[0])), *columns])


def indicator(raw: Raw, name: str, level: int) -> np.ndarray:
    return (counts(raw, name) == level).astype(np.float64)


def _eight_schools(raw: Raw) -> dict:
    return {"sigma": column(raw, "sigma"), "y": column(raw, "y")}


def _arK(raw: Raw) -> dict:
    y, order = column(raw, "y"), raw["K"]
    return {"lags": np.column_stack([y[order - k : -k] for k in range(1, order + 1)]), "y": y[order:]}


def _garch11(raw: Raw) -> dict:
    return {"sigma1": float(raw["sigma1"]), "y": column(raw, "y")}


def _y_only(raw: Raw) -> dict:
    return {"y": column(raw, "y")}


def _gp(raw: Raw) -> dict:
    return {"x": column(raw, "x"), "y": column(raw, "y")}


def _hmm_drive_0(raw: Raw) -> dict:
    return {name: column(raw, name) for name in ("alpha", "u", "v")}


def _earn_height(raw: Raw) -> dict:
    return {"X": design(column(raw, "height")), "y": column(raw, "earn")}


def _kidscore_interaction(raw: Raw) -> dict:
    mom_hs, mom_iq = column(raw, "mom_hs"), column(raw, "mom_iq")
    return {"X": design(mom_hs, mom_iq, mom_hs * mom_iq), "y": column(raw, "kid_score")}


def _kidscore_mom_work(raw: Raw) -> dict:
    levels = [indicator(raw, "mom_work", level) for level in (2, 3, 4)]
    return {"X": design(*levels), "y": column(raw, "kid_score")}


def _logearn_logheight_male(raw: Raw) -> dict:
    return {"X": design(np.log(column(raw, "height")), column(raw, "male")), "y": np.log(column(raw, "earn"))}


def _mesquite(raw: Raw) -> dict:
    names = ("diam1", "diam2", "canopy_height", "total_height", "density", "group")
    return {"X": design(*(column(raw, name) for name in names)), "y": column(raw, "weight")}


def _nes2000(raw: Raw) -> dict:
    ages = [indicator(raw, "age_discrete", level) for level in (2, 3, 4)]
    before, after = ("real_ideo", "race_adj"), ("educ1", "gender", "income")
    X = design(*(column(raw, name) for name in before), *ages, *(column(raw, name) for name in after))
    return {"X": X, "y": column(raw, "partyid7")}


def _sblri(raw: Raw) -> dict:
    return {"X": column(raw, "X"), "y": column(raw, "y")}


def _kilpisjarvi(raw: Raw) -> dict:
    constants = {name: float(raw[name]) for name in ("pmualpha", "psalpha", "pmubeta", "psbeta")}
    return {"x": column(raw, "x"), **constants, "y": column(raw, "y")}


def _lotka_volterra(raw: Raw) -> dict:
    return {name: column(raw, name) for name in ("ts", "y_init", "y")}


def _diamonds(raw: Raw) -> dict:
    X = column(raw, "X")[:, 1:]
    return {"X_centred": X - X.mean(axis=0), "y": column(raw, "Y")}


def _wells(raw: Raw) -> dict:
    dist, arsenic = column(raw, "dist"), column(raw, "arsenic")
    c_dist, c_ars = (dist - dist.mean()) / 100, arsenic - arsenic.mean()
    X = np.column_stack([c_dist, c_ars, c_dist * c_ars, column(raw, "assoc"), column(raw, "educ") / 4])
    return {"X": X, "switched": counts(raw, "switched")}


def _dugongs(raw: Raw) -> dict:
    return {"x": column(raw, "x"), "Y": column(raw, "Y")}


def _rats(raw: Raw) -> dict:
    return {
        "rat": zero_based(raw, "rat"),
        "x": column(raw, "x"),
        "xbar": float(raw["xbar"]),
        "J": raw["N"],
        "y": column(raw, "y"),
    }


def _surgical(raw: Raw) -> dict:
    return {"n": counts(raw, "n"), "r": counts(raw, "r")}


def _M0(raw: Raw) -> dict:
    return {"captures": counts(raw, "y").sum(axis=1, dtype=np.int32), "T": raw["T"]}


def _glm_poisson(raw: Raw) -> dict:
    return {"year": column(raw, "year"), "C": counts(raw, "C")}


def _radon(raw: Raw) -> dict:
    return {
        "county": zero_based(raw, "county_idx"),
        "log_uppm": column(raw, "log_uppm"),
        "floor": column(raw, "floor_measure"),
        "J": raw["J"],
        "log_radon": column(raw, "log_radon"),
    }


def _irt_2pl(raw: Raw) -> dict:
    return {"I": raw["I"], "J": raw["J"], "y": counts(raw, "y")}


def _losscurve(raw: Raw) -> dict:
    return {
        "cohort": zero_based(raw, "cohort_id"),
        "t": column(raw, "t_value")[zero_based(raw, "t_idx")],
        "premium": column(raw, "premium"),
        "loss": column(raw, "loss"),
    }


def standardised(location: str, scale: str, name: str, to: str) -> Callable[[Arrays], Arrays]:
    """Latents of a non-centred model from centred draws: to = (name - location) / scale."""

    def latents(draws: Arrays) -> Arrays:
        z = (draws[name] - draws[location][:, None]) / draws[scale][:, None]
        return {**draws, to: z}

    return latents


def _garch11_latents(draws: Arrays) -> Arrays:
    alpha1, beta1 = draws["alpha1"], draws["beta1"]
    return {**draws, "weights": np.column_stack([alpha1, beta1, 1 - alpha1 - beta1])}


def _surgical_latents(draws: Arrays) -> Arrays:
    return {**standardised("mu", "sigma", "b", "z")(draws), "sigmasq": draws["sigma"] ** 2}


def _irt_2pl_latents(draws: Arrays) -> Arrays:
    z_theta = draws["theta"] / draws["sigma_theta"][:, None]
    return {**draws, "z_theta": z_theta, "z_a": np.log(draws["a"]) / draws["sigma_a"][:, None]}


def predictors(site: str, *names: str) -> dict:
    """Labels of a vector of coefficients."""
    return {"coords": {"predictor": list(names)}, "dims": {site: ("predictor",)}}


def numbered(dim: str, size: int) -> dict:
    return {dim: np.arange(1, size + 1)}


REGISTRY: dict[str, Entry] = {
    entry.name: entry
    for entry in (
        Entry(
            "eight_schools_noncentered",
            hierarchical.eight_schools,
            "eight_schools",
            _eight_schools,
            standardised("mu", "tau", "theta", "z"),
            coords=numbered("school", 8),
        ),
        Entry("arK", regression.arK, "arK", _arK, coords=numbered("lag", 5), dims={"beta": ("lag",)}),
        Entry("garch11", sequence.garch11, "garch11", _garch11, _garch11_latents),
        Entry("low_dim_gauss_mix", sequence.low_dim_gauss_mix, "low_dim_gauss_mix", _y_only),
        Entry("gp_regr", regression.gp_regr, "gp", _gp),
        Entry("hmm_example", sequence.hmm_example, "hmm_example", _y_only),
        Entry("hmm_drive_0", sequence.hmm_drive_0, "hmm_drive_0", _hmm_drive_0),
        Entry(
            "earn_height",
            regression.linear_flat,
            "earnings",
            _earn_height,
            **predictors("beta", "intercept", "height"),
        ),
        Entry(
            "kidscore_interaction",
            regression.linear_half_cauchy,
            "kidiq",
            _kidscore_interaction,
            **predictors("beta", "intercept", "mom_hs", "mom_iq", "mom_hs:mom_iq"),
        ),
        Entry(
            "kidscore_mom_work",
            regression.linear_flat,
            "kidiq_with_mom_work",
            _kidscore_mom_work,
            **predictors("beta", "intercept", "mom_work=2", "mom_work=3", "mom_work=4"),
        ),
        Entry(
            "logearn_logheight_male",
            regression.linear_flat,
            "earnings",
            _logearn_logheight_male,
            **predictors("beta", "intercept", "log_height", "male"),
        ),
        Entry(
            "mesquite",
            regression.linear_flat,
            "mesquite",
            _mesquite,
            **predictors("beta", "intercept", "diam1", "diam2", "canopy_height", "total_height", "density", "group"),
        ),
        Entry(
            "nes2000",
            regression.linear_flat,
            "nes2000",
            _nes2000,
            **predictors(
                "beta",
                "intercept",
                "real_ideo",
                "race_adj",
                "age=2",
                "age=3",
                "age=4",
                "educ1",
                "gender",
                "income",
            ),
        ),
        Entry("sblri", regression.sblri, "sblri", _sblri),
        Entry("kilpisjarvi", regression.kilpisjarvi, "kilpisjarvi", _kilpisjarvi),
        Entry("lotka_volterra", sequence.lotka_volterra, "lotka_volterra", _lotka_volterra),
        Entry("diamonds", regression.diamonds, "diamonds", _diamonds),
        Entry(
            "wells_daae",
            regression.wells_daae,
            "wells",
            _wells,
            **predictors("beta", "dist", "arsenic", "dist:arsenic", "assoc", "educ4"),
        ),
        Entry("dugongs", regression.dugongs, "dugongs", _dugongs),
        Entry("rats", hierarchical.rats, "rats", _rats, coords=numbered("rat", 30)),
        Entry(
            "surgical",
            hierarchical.surgical,
            "surgical",
            _surgical,
            _surgical_latents,
            coords=numbered("hospital", 12),
        ),
        Entry("M0", sequence.M0, "M0", _M0),
        Entry("glm_poisson", regression.glm_poisson, "glm_poisson", _glm_poisson),
        Entry(
            "radon_intercept",
            hierarchical.radon_intercept,
            "radon_mn",
            _radon,
            standardised("mu_alpha", "sigma_alpha", "alpha", "z"),
            coords=numbered("county", 85),
        ),
        Entry(
            "irt_2pl",
            hierarchical.irt_2pl,
            "irt_2pl",
            _irt_2pl,
            _irt_2pl_latents,
            coords=numbered("person", 100) | numbered("item", 20),
        ),
        Entry("losscurve", hierarchical.losscurve, "losscurve", _losscurve, coords=numbered("cohort", 10)),
    )
}
