"""The answer for some rows: numbers with their doubt. Imports numpy; pandas for tables."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from probinfer.predict.kind import Interval

if TYPE_CHECKING:
    import pandas as pd

_SHOWN = 10


@dataclass(frozen=True, eq=False, repr=False)
class Prediction:
    """What a predictor says about each row: the posterior predictive distribution in numbers.

    Every array has one entry for each row; for an outcome of several numbers per row these follow as further axes
    (*event).

    outcome          name of the outcome
    mean, sd         of the predictive distribution; inf or nan where a law has none (Student's t with few degrees of
                     freedom)
    lower, upper     interval of the kind `interval` that holds the outcome with probability `level`; with at least that
                     probability for whole numbers
    level            probability of the interval
    epistemic_sd     part of `sd` that comes from not knowing the parameters, sd of E[Y | parameters]; shrinks with
                     more data
    aleatoric_sd     part that would remain if they were known; sd^2 = epistemic_sd^2 + aleatoric_sd^2
    mcse             Monte Carlo standard error of `mean`: how far it may be off because the posterior draws are
                     finitely many and autocorrelated (batch means); nan with a single draw
    quantiles        (rows, *event, levels): quantiles at `quantile_levels`; None if none were asked for
    probabilities    (rows, *event, k): P(Y = 0), …, P(Y = k - 1). All classes of a Bernoulli or categorical outcome;
                     for a count the first few counts; else None
    classes          the class codes 0, …, k - 1 if the outcome is a class, or their labels where a `Pipeline` has
                     them; else None
    entropy          of classes, (rows, *event): the doubt about the outcome, H(p) = -sum_k p_k log p_k of
                     `probabilities`, in nats (log 2 = 0.693 for a toss-up of two classes). Else None
    expected_entropy the part that would remain if the parameters were known, E[H(p | parameters)]; aleatoric
    mutual_information  the part that comes from not knowing them, `entropy` less `expected_entropy`, which is the
                     mutual information of outcome and parameters; epistemic, shrinks with more data
    sets             (rows, *event, k), booleans: the set of classes that holds the outcome with probability `level`;
                     the most probable ones. None if the outcome is no class
    calibration_rows (rows,): how many calibration rows stand behind each row's interval; None without calibration
    guarantee        what the calibration promises, in words; None without it. Interval, sets and the quantiles of
                     numbers are then calibrated; everything else is the model's
    interval         kind of the interval

    The mean of a Bernoulli outcome is P(Y = 1). Mean, sd, interval and quantiles of a categorical outcome are those
    of the class code: they say something only if the classes are ordered. For unordered classes read `probabilities`
    and `most_probable`.
    """

    outcome: str
    mean: np.ndarray
    sd: np.ndarray
    lower: np.ndarray
    upper: np.ndarray
    level: float
    epistemic_sd: np.ndarray
    aleatoric_sd: np.ndarray
    mcse: np.ndarray
    quantiles: np.ndarray | None = None
    quantile_levels: tuple[float, ...] = ()
    probabilities: np.ndarray | None = None
    classes: np.ndarray | None = None
    sets: np.ndarray | None = None
    calibration_rows: np.ndarray | None = None
    entropy: np.ndarray | None = None
    expected_entropy: np.ndarray | None = None
    mutual_information: np.ndarray | None = None
    guarantee: str | None = None
    interval: Interval = Interval.ETI

    @classmethod
    def of(cls, **fields: Any) -> "Prediction":
        """`Prediction(**fields)`, given every field that differs from its default, in a quarter of the time: of a row's
        answer one part in twenty."""
        made = object.__new__(cls)
        made.__dict__.update(fields)
        return made

    def __len__(self) -> int:
        return len(self.mean)

    @property
    def most_probable(self) -> np.ndarray | None:
        """Code of each row's most probable class; None if the outcome is no class."""
        if self.classes is None or self.probabilities is None:
            return None
        return self.classes[np.argmax(self.probabilities, axis=-1)]

    def columns(self) -> dict[str, np.ndarray]:
        """The prediction as flat columns: mean, sd, lower, upper, level, epistemic_sd, aleatoric_sd, mcse; then
        q0.05, … for the quantiles asked for; for classes most_probable, probability_0, …, entropy, expected_entropy,
        mutual_information, and in_set_0, …; of a calibrated predictor calibration_rows. An outcome of several numbers
        has mean[0], mean[1], ….
        """
        arrays: dict[str, np.ndarray] = {"mean": self.mean, "sd": self.sd, "lower": self.lower, "upper": self.upper}
        arrays |= {"epistemic_sd": self.epistemic_sd, "aleatoric_sd": self.aleatoric_sd, "mcse": self.mcse}
        if self.quantiles is not None:
            arrays |= {f"q{q:.10g}": self.quantiles[..., i] for i, q in enumerate(self.quantile_levels)}
        if self.most_probable is not None and self.probabilities is not None:
            arrays["most_probable"] = self.most_probable
            arrays |= {f"probability_{k}": self.probabilities[..., k] for k in range(self.probabilities.shape[-1])}
        if self.entropy is not None and self.expected_entropy is not None and self.mutual_information is not None:
            arrays |= {"entropy": self.entropy, "expected_entropy": self.expected_entropy}
            arrays["mutual_information"] = self.mutual_information
        if self.sets is not None:
            arrays |= {f"in_set_{k}": self.sets[..., k] for k in range(self.sets.shape[-1])}
        if self.calibration_rows is not None:
            arrays["calibration_rows"] = self.calibration_rows
        flat: dict[str, np.ndarray] = {}
        for name, values in arrays.items():
            for index in np.ndindex(values.shape[1:]):
                flat[f"{name}[{','.join(map(str, index))}]" if index else name] = values[(slice(None), *index)]
            if name == "upper":
                flat["level"] = np.full(len(self), self.level)
        return flat

    def to_frame(self) -> "pd.DataFrame":
        """`columns()` as a pandas DataFrame, one row for each row."""
        import pandas as pd

        return pd.DataFrame(self.columns())

    def _head(self) -> str:
        rows = f"{len(self)} row{'s' if len(self) != 1 else ''}"
        text = f"Prediction of {self.outcome}: {rows}, {100 * self.level:.10g}% {self.interval.value}"
        return f"{text}, {self.guarantee}" if self.guarantee else text

    def _start(self) -> "pd.DataFrame":
        frame = self.to_frame().head(_SHOWN)
        left_out = ("level", "calibration_rows", "probability_", "expected_entropy", "in_set_")
        return frame.drop(columns=[name for name in frame if str(name).startswith(left_out)])

    def __repr__(self) -> str:
        more = f"\n… and {len(self) - _SHOWN} more" if len(self) > _SHOWN else ""
        table = "\n" + self._start().to_string(float_format="{:.4g}".format) if len(self) else ""
        return self._head() + table + more

    def _repr_html_(self) -> str:
        more = f"<p>… and {len(self) - _SHOWN} more</p>" if len(self) > _SHOWN else ""
        return f"<p>{self._head()}</p>{self._start().to_html(float_format='{:.4g}'.format)}{more}"
