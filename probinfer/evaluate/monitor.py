"""A predictor in use: whether its rows, its doubt, its calibration and its coverage are still what they were."""

import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy
from scipy.special import betaln

from probinfer.errors import ArtifactError, PredictionError
from probinfer.evaluate.betting import UNIFORM, Capital, misses
from probinfer.evaluate.exchange import Reference, uniform
from probinfer.evaluate.metrics import check_outcomes
from probinfer.evaluate.one_outcome import refuse_joint
from probinfer.evaluate.point_watch import OutcomePlaces, columns_of, frame_columns, inside_of, names_of, outcome_places
from probinfer.inference.draw import key_words
from probinfer.predict.identity import identity_of
from probinfer.predict.interval import take_groups, without_groups
from probinfer.predict.point import PointPredictor
from probinfer.predict.prediction import Prediction
from probinfer.predict.predictor import Predictor
from probinfer.predict.rows import column_names, plain_numbers, read_rows

if TYPE_CHECKING:
    import pandas as pd

FORMAT = 1
SHARE = "epistemic share"
PIT, COVERAGE = "calibration", "coverage"
_BINS = 32
_PARTS = 4  # inputs, epistemic share, calibration, coverage: each may use a quarter of the chance of a false alarm
_PIT_STREAM = 2**32


@dataclass(frozen=True)
class Watched:
    """One thing that is watched.

    name       an input's column, "epistemic share", "calibration" or "coverage"
    evidence   now: the capital of bets against the hypothesis that nothing has changed; 1 at the start
    largest    the largest it was so far
    threshold  at which there is an alarm
    since      number of the row, counted from the monitor's beginning (outcomes: of the outcome), at which it was
               reached; None without an alarm
    advice     what to do about an alarm
    """

    name: str
    evidence: float
    largest: float
    threshold: float
    since: int | None
    advice: str


@dataclass(frozen=True, eq=False)
class MonitorStatus:
    """What a monitor has found: `status.alarms`, `status["x"]`, `status.to_frame()`.

    rows, outcomes   seen so far
    watched          everything that is watched
    coverage         share of the outcomes inside their interval or set; None without outcomes
    coverage_lower, coverage_upper   confidence sequence of it: holds the true share at all times together, with
                     probability 1 - false_alarm, if outcomes are alike
    level            what the coverage should be
    false_alarm      chance of ever an alarm, if nothing has changed and the predictor is right
    """

    rows: int
    outcomes: int
    watched: tuple[Watched, ...]
    coverage: float | None
    coverage_lower: float
    coverage_upper: float
    level: float
    false_alarm: float

    @property
    def alarms(self) -> tuple[Watched, ...]:
        """What has changed, the strongest evidence first."""
        raised = [one for one in self.watched if one.since is not None]
        return tuple(sorted(raised, key=lambda one: -one.largest / one.threshold))

    def __getitem__(self, name: str) -> Watched:
        for one in self.watched:
            if one.name == name:
                return one
        if name == SHARE:
            raise KeyError(
                f"{SHARE} is not watched: the predictor has none, as a point model does not know it; look at {PIT!r} "
                f"and {COVERAGE!r}."
            )
        raise KeyError(f"{name!r} is not watched; there are {', '.join(one.name for one in self.watched)}")

    def to_frame(self) -> "pd.DataFrame":
        """One row for each thing watched: evidence, largest, threshold, since."""
        import pandas as pd

        columns = ("evidence", "largest", "threshold", "since")
        return pd.DataFrame(
            [[getattr(one, name) for name in columns] for one in self.watched],
            columns=list(columns),
            index=pd.Index([one.name for one in self.watched], name="watched"),
        )

    def to_plain(self) -> dict[str, Any]:
        """As JSON holds it, for a server to answer with."""
        alarms = [{"name": a.name, "since": a.since, "largest": a.largest, "advice": a.advice} for a in self.alarms]
        return {
            "rows": self.rows,
            "outcomes": self.outcomes,
            "alarms": alarms,
            "evidence": {one.name: one.evidence for one in self.watched},
            "coverage": self.coverage,
            "coverage_interval": [self.coverage_lower, self.coverage_upper],
            "level": self.level,
            "false_alarm": self.false_alarm,
        }

    def _head(self) -> str:
        seen = f"{self.rows} rows, {self.outcomes} outcomes"
        text = f"Monitor: {seen}; chance of ever a false alarm {self.false_alarm:g}"
        if self.coverage is not None:
            text += (
                f"; coverage {self.coverage:.3f} ({self.coverage_lower:.3f} to {self.coverage_upper:.3f}), "
                f"wanted {self.level:g}"
            )
        return text

    def __repr__(self) -> str:
        alarms = [f"✗ {one.name} changed, noticed at row {one.since}: {one.advice}" for one in self.alarms]
        table = self.to_frame().to_string(float_format="{:.3g}".format)
        return "\n".join([self._head(), *(alarms or ["✓ no alarm"]), table])

    def _repr_html_(self) -> str:
        lines = "".join(f"<div>{escape(line)}</div>" for line in repr(self).splitlines()[: 2 + len(self.alarms)])
        return f"{lines}{self.to_frame().to_html(float_format='{:.3g}'.format)}"


class Monitor:
    """Watches a predictor in use, row by row, for as long as it is used.

    Four hypotheses are tested, each so that looking after every row costs nothing: the chance that any of them ever
    raises an alarm is at most `false_alarm`, if new rows are exchangeable with the reference rows and the predictor
    is right.

    - inputs: every column's new values come from where the reference values came from.
    - epistemic share: so does the part of the predictive variance that is ignorance of the parameters; it rises where
      rows are unlike those of training.
    - calibration: the PIT of the outcomes, F(y | x), is uniform (the model's own, also of a calibrated predictor).
    - coverage: outcomes miss their interval or set no more often than 1 - level (as calibrated).

    A `PointPredictor` does not know its ignorance, so that there is no epistemic share; of a calibrated one both
    calibration and coverage are that outcomes lie among those of the calibration rows as if they were of them, which is
    exact for any number of outcomes.

    Each is a bet with a capital of 1 that the hypothesis keeps from growing; the alarm comes when it has grown to
    4 / false_alarm, for one of C columns 4 C / false_alarm. A change may begin at any row.

    Args:
        predictor: what is watched: a `Predictor`, or a `PointPredictor`.
        rows: reference rows, as `Predictor.predict` takes them: those of training for the inputs; rows kept from
            training are better, since the epistemic share is a little lower where the model was trained.
        level: of the intervals whose coverage is watched.
        false_alarm: chance of ever a false alarm.
        seed: of the random numbers that tell equal values apart.
        prediction: what the predictor says of the reference rows with this level, where that is known already.

    Raises:
        PredictionError: the rows do not fit, are fewer than 20, or an argument is out of range.

    Fails to see a change within a column's law that keeps its ranks, one of the relation between columns alone, and a
    change so early that the reference rows are few. A model that was never calibrated raises an alarm, change or not.

    >>> import numpyro, numpyro.distributions as dist
    >>> import probinfer as pi
    >>> def model(x, y=None):
    ...     slope = numpyro.sample("slope", dist.Normal(0, 1))
    ...     numpyro.sample("y", dist.Normal(slope * x, 1), obs=y)
    >>> rng = np.random.default_rng(0)
    >>> x = rng.normal(size=400)
    >>> y = x + rng.normal(size=400)
    >>> predictor = Predictor(pi.infer(model, {"x": x[:200], "y": y[:200]}, pi.Exact(), progress=False))
    >>> monitor = Monitor(predictor, {"x": x[:200]})
    >>> len(monitor.update({"x": x[200:]}, y[200:]).alarms)
    0
    >>> [alarm.name for alarm in monitor.update({"x": x[200:] + 2}).alarms]
    ['x', 'epistemic share']
    """

    def __init__(
        self,
        predictor: Predictor | PointPredictor,
        rows: Any,
        *,
        level: float = 0.9,
        false_alarm: float = 0.01,
        seed: Any = 0,
        prediction: Prediction | None = None,
    ) -> None:
        refuse_joint(predictor, "watched")
        if not hasattr(predictor, "predict") or not hasattr(predictor, "program"):
            raise PredictionError(
                f"predictor came as {type(predictor).__name__}; wanted a Predictor or PointPredictor."
            )
        for name, value in (("level", level), ("false_alarm", false_alarm)):
            if isinstance(value, bool) or not isinstance(value, int | float | np.number) or not 0 < value < 1:
                raise PredictionError(f"{name} is {value!r}; wanted a probability, such as 0.9 or 0.01.")
        self._predictor, self._lock = predictor, threading.Lock()
        self._identity: str | None = None
        self.level, self.false_alarm, self._seed = float(level), float(false_alarm), int(key_words(seed)[0])
        columns, _ = self._columns(rows, self._said(rows, prediction))
        count = len(next(iter(columns.values())))
        if count < 20:
            raise PredictionError(f"There are {count} reference rows; wanted 20 or more, such as those of training.")
        self._references = {
            name: Reference.of(values, _BINS, uniform(self._seed, 3 * i, 0, count))
            for i, (name, values) in enumerate(columns.items())
            if np.isfinite(values).all()
        }
        self._inputs = Capital.begin(len(self._references), len(UNIFORM))
        self._pit = Capital.begin(1, len(UNIFORM))
        self._misses = Capital.begin(1, len(misses(self.level)))
        self._hits = 0
        point = isinstance(predictor, PointPredictor)
        self._places = OutcomePlaces.of(predictor, self.level, _BINS) if point else None

    def update(self, rows: Any, outcomes: Any = None, *, prediction: Prediction | None = None) -> MonitorStatus:
        """Look at further rows, with their outcomes if they are known already. Thread-safe.

        prediction: what the predictor said of these rows with the monitor's level, if it was asked before.
        Raises PredictionError as `Predictor.predict` does, and then nothing has changed.
        """
        prediction = self._said(rows, prediction)
        if not len(prediction):
            return self.status
        columns, count = self._columns(rows, prediction)
        came = None if outcomes is None else self._outcomes(rows, outcomes, prediction)
        return self._add(columns, count, came)

    def answered(self, inputs: Mapping[str, np.ndarray], epistemic: np.ndarray, total: np.ndarray) -> MonitorStatus:
        """As `update`, of rows that a server has read and answered already: the model's inputs, (rows, *shape) each,
        and the epistemic and the whole variance, (rows, *event)."""
        columns, count = self._flat(inputs, epistemic, total)
        return self._add(columns, count, None)

    def came(
        self, below: np.ndarray, upto: np.ndarray, inside: np.ndarray, groups: np.ndarray | None = None
    ) -> MonitorStatus:
        """As `update_outcomes`, of outcomes y that a server has looked at already: P(Y < y), P(Y <= y), and whether y
        was inside, (outcomes,) each; of a point model its place from where to where, and the groups."""
        with self._lock:
            self._add_outcomes(below, upto, inside, groups)
            return self._status()

    def attached(self) -> Any:
        """The predictor with this monitor in it: `save` writes what the monitor knows now, and `probinfer serve` goes
        on from there. Watch a predictor that is as it will be served: calibrated first, then watched."""
        predictor = self._predictor
        about = {**predictor.about, "monitor": self.state()}
        if isinstance(predictor, PointPredictor):
            return predictor.with_about(about)
        watched = predictor.from_program(predictor.program, about, predictor.calibration)
        watched._engine = predictor._engine  # what is compiled stays compiled
        return watched

    @classmethod
    def of(cls, predictor: Predictor | PointPredictor, *, shared_by: int = 1) -> "Monitor | None":
        """The monitor that was attached to a predictor; None where there is none. `shared_by`: so many processes watch
        a part of the rows each, and all of them together raise a false alarm with the chance that was asked for."""
        state = predictor.about.get("monitor")
        if state is None:
            return None
        self = cls.from_state(predictor, state)
        self.false_alarm /= shared_by
        return self

    def _add(self, columns: Mapping[str, np.ndarray], count: int, came: Any) -> MonitorStatus:
        with self._lock:
            first = self._inputs.count
            ranks, counts = [], {}
            for i, (name, reference) in enumerate(self._references.items()):
                random = [uniform(self._seed, 3 * i + k, first + (2**40 if k == 0 else 0), count) for k in (0, 1)]
                values = np.where(np.isfinite(columns[name]), columns[name], np.inf)
                p, counts[name] = reference.rank(values, np.stack(random, axis=1))
                ranks.append(p)
            for name, after in counts.items():
                self._references[name].counts = after
            if ranks:
                self._inputs = self._inputs.after(np.stack(ranks, axis=1), UNIFORM, self._least)
            else:
                self._inputs.count += count
            if came is not None:
                self._add_outcomes(*came)
            return self._status()

    def update_outcomes(self, rows: Any, outcomes: Any, *, prediction: Prediction | None = None) -> MonitorStatus:
        """Outcomes of rows that `update` has seen already, in any order."""
        came = self._outcomes(rows, outcomes, self._said(rows, prediction))
        with self._lock:
            self._add_outcomes(*came)
            return self._status()

    @property
    def status(self) -> MonitorStatus:
        """What was found so far."""
        with self._lock:
            return self._status()

    def __repr__(self) -> str:
        return repr(self.status)

    def _repr_html_(self) -> str:
        return self.status._repr_html_()

    def state(self) -> dict[str, Any]:
        """Everything, as plain data for JSON; `Monitor.from_state` goes on from there."""
        with self._lock:
            return {
                "probinfer_monitor": FORMAT,
                "outcome": self._predictor.outcome,
                **self._whose(),
                "level": self.level,
                "false_alarm": self.false_alarm,
                "seed": self._seed,
                "columns": {name: reference.to_plain() for name, reference in self._references.items()},
                "inputs": self._inputs.to_plain(),
                "calibration": self._pit.to_plain(),
                "misses": self._misses.to_plain(),
                "hits": self._hits,
                **({"places": self._places.to_plain()} if self._places is not None else {}),
            }

    def _whose(self) -> dict[str, str]:
        """Whose state it is. Not of a point model, which is converted when it is saved: it is known by its scores."""
        if isinstance(self._predictor, PointPredictor):
            return {}
        if self._identity is None:
            self._identity = identity_of(self._predictor)
        return {"predictor": self._identity}

    @classmethod
    def from_state(cls, predictor: Predictor | PointPredictor, state: Mapping[str, Any] | str) -> "Monitor":
        """The monitor that `state()` described, as dict or JSON. Runs nothing.

        Raises ArtifactError if it is no state, one of a later version, or one of another predictor: with other draws,
        or another calibration, such as one fitted anew. A state of an earlier release, which does not say whose it is,
        is known by the names of outcome and inputs only.
        """
        try:
            plain = json.loads(state) if isinstance(state, str) else state
            if plain["probinfer_monitor"] != FORMAT:
                raise ArtifactError(
                    f"The monitor's state has version {plain['probinfer_monitor']!r}; this probinfer reads {FORMAT}."
                )
            self = cls.__new__(cls)
            self._predictor, self._lock, self._identity = predictor, threading.Lock(), None
            self.level, self.false_alarm = float(plain["level"]), float(plain["false_alarm"])
            self._seed, self._hits = int(plain["seed"]), int(plain["hits"])
            if not (0 < self.level < 1 and 0 < self.false_alarm < 1 and self._seed >= 0):
                raise ValueError("a level or chance that is none")
            self._references = {name: Reference.from_plain(one) for name, one in plain["columns"].items()}
            self._inputs = Capital.from_plain(plain["inputs"], len(self._references), len(UNIFORM))
            self._pit = Capital.from_plain(plain["calibration"], 1, len(UNIFORM))
            self._misses = Capital.from_plain(plain["misses"], 1, len(misses(self.level)))
            outcome = plain["outcome"]
            point = isinstance(predictor, PointPredictor)
            self._places = OutcomePlaces.from_plain(plain["places"]) if point and "places" in plain else None
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            if isinstance(error, ArtifactError):
                raise
            raise ArtifactError(
                f"This is no state of a monitor ({type(error).__name__}: {error}); wanted what monitor.state() "
                "gave, or its JSON."
            ) from error
        if point and not (self._places or OutcomePlaces({})).fits(predictor.calibration):
            raise ArtifactError("The state is of another calibration of the point model: watch it anew, pi.Monitor(…).")
        names = names_of(predictor) if point else {e.name: column_names(e) for e in predictor.program.inputs}
        known = {name for each in names.values() for name in each} | ({SHARE} if not point else set())
        if outcome != predictor.outcome or not set(self._references) <= known:
            raise ArtifactError(
                f"The state is of a predictor of {outcome} from {', '.join(self._references)}; this one predicts "
                f"{predictor.outcome} from {', '.join(sorted(known - {SHARE})) or 'nothing'}."
            )
        if "predictor" in plain and plain["predictor"] != self._whose().get("predictor"):
            raise ArtifactError(
                "The state is of another predictor of the same outcome and inputs, with other draws or another "
                "calibration: what was seen says nothing of this one. Watch it anew, pi.Monitor(predictor, rows)."
            )
        return self

    # what a row shows ------------------------------------------------------------------------------------------------

    def _said(self, rows: Any, prediction: Prediction | None) -> Prediction:
        if prediction is None:
            return self._predictor.predict(rows, self.level)
        if prediction.level != self.level or prediction.outcome != self._predictor.outcome:
            raise PredictionError(
                f"The prediction is of {prediction.outcome} with level {prediction.level:g}; wanted "
                f"{self._predictor.outcome} with {self.level:g}."
            )
        return prediction

    def _columns(self, rows: Any, prediction: Prediction) -> tuple[dict[str, np.ndarray], int]:
        """Every column as numbers, and the epistemic share, (rows,) each."""
        predictor = self._predictor
        plain = without_groups(rows, predictor.calibration, predictor.program)
        if isinstance(predictor, PointPredictor) and predictor.asked.whole:
            return frame_columns(predictor.asked.parts[0].given(plain, predictor.program, 0)), len(prediction)
        inputs, count = read_rows(plain, predictor.program)
        if len(prediction) != count:
            raise PredictionError(f"The prediction has {len(prediction)} rows, there are {count}.")
        return self._flat(
            inputs, *(np.square(sd).reshape(count, -1) for sd in (prediction.epistemic_sd, prediction.sd))
        )

    def _flat(
        self, inputs: Mapping[str, np.ndarray], epistemic: np.ndarray, total: np.ndarray
    ) -> tuple[dict[str, np.ndarray], int]:
        columns, count = {}, len(total)
        if isinstance(self._predictor, PointPredictor):
            return columns_of(self._predictor, inputs), count
        for entry in self._predictor.program.inputs:
            flat = inputs[entry.name].reshape(count, -1).astype(float)
            columns |= dict(zip(column_names(entry), flat.T, strict=True))
        epistemic, total = (variance.reshape(count, -1).sum(axis=1) for variance in (epistemic, total))
        with np.errstate(invalid="ignore", divide="ignore"):
            columns[SHARE] = np.where(total > 0, epistemic / total, 0.0)
        return columns, count

    def _outcomes(self, rows: Any, outcomes: Any, prediction: Prediction) -> tuple[Any, ...]:
        """P(Y < y), P(Y <= y) and whether y is inside, for each outcome; of a point model its place from where to
        where, and the groups."""
        predictor = self._predictor
        if isinstance(predictor, PointPredictor):
            values, groups = predictor.ask(rows)
            came = predictor.outcomes(outcomes, len(values))
            return (*outcome_places(predictor, values, groups, came), inside_of(prediction, came), groups)
        y = plain_numbers("outcomes", outcomes).astype(float)
        check_outcomes(prediction, y)
        if prediction.classes is not None and prediction.probabilities is not None:
            codes = y.astype(int)
            upto = np.cumsum(prediction.probabilities, axis=1)[np.arange(len(y)), codes]
            below = upto - prediction.probabilities[np.arange(len(y)), codes]
            inside = prediction.sets[np.arange(len(y)), codes] if prediction.sets is not None else np.ones(len(y), bool)
            return below, upto, inside
        plain, _ = take_groups(rows, None, predictor.calibration, predictor.program)
        both = predictor.cdf(plain, y)
        return both[:, 1], both[:, 0], (prediction.lower <= y) & (y <= prediction.upper)

    def _add_outcomes(
        self, below: np.ndarray, upto: np.ndarray, inside: np.ndarray, groups: np.ndarray | None = None
    ) -> None:
        v, again = (uniform(self._seed, _PIT_STREAM + k, self._pit.count, len(below)) for k in (0, 1))
        pit = below + v * (upto - below)
        threshold = float(np.log(_PARTS / self.false_alarm))
        if self._places is None:
            self._misses = self._misses.after((~inside[:, None]).astype(float), misses(self.level), threshold)
        else:
            pit, gains = self._places.add(pit, below, upto, groups, again)
            self._misses = self._misses.gaining(gains[:, None, :], threshold)
        self._pit = self._pit.after(np.clip(pit, 1e-12, 1 - 1e-12)[:, None], UNIFORM, threshold)
        self._hits += int(inside.sum())

    # what it comes to ------------------------------------------------------------------------------------------------

    @property
    def _least(self) -> np.ndarray:
        """Log capital at which each column raises an alarm."""
        inputs = max(1, sum(name != SHARE for name in self._references))
        return np.log([_PARTS * (1 if name == SHARE else inputs) / self.false_alarm for name in self._references])

    def _status(self) -> MonitorStatus:
        watched = [
            _watched(name, self._inputs, i, float(self._least[i]), _ADVICE.get(name, _ADVICE["input"]))
            for i, name in enumerate(self._references)
        ]
        one = float(np.log(_PARTS / self.false_alarm))
        watched += [
            _watched(name, capital, 0, one, _ADVICE[name])
            for name, capital in ((PIT, self._pit), (COVERAGE, self._misses))
        ]
        seen = self._pit.count
        lower, upper = confidence_sequence(self._hits, seen, self.false_alarm)
        return MonitorStatus(
            rows=self._inputs.count,
            outcomes=seen,
            watched=tuple(watched),
            coverage=self._hits / seen if seen else None,
            coverage_lower=lower,
            coverage_upper=upper,
            level=self.level,
            false_alarm=self.false_alarm,
        )


_ADVICE = {
    "input": "New rows are not like the reference rows in this column. Look for what changed upstream; train again, or "
    "calibrate again, on recent rows.",
    SHARE: "Rows come from where the model knows less than in the reference rows. Train again with rows like these.",
    PIT: "Outcomes are not where the predictive distribution says. Check the model on recent outcomes, train again, or "
    "calibrate on them (which mends intervals only).",
    COVERAGE: "Intervals are missed too often. Calibrate again on recent outcomes.",
}


def _watched(name: str, capital: Capital, i: int, log_threshold: float, advice: str) -> Watched:
    since = int(capital.crossed[i])
    return Watched(
        name=name,
        evidence=float(np.exp(min(capital.log_capital[i], 700.0))),
        largest=float(np.exp(min(capital.largest[i], 700.0))),
        threshold=float(np.exp(log_threshold)),
        since=since if since >= 0 else None,
        advice=advice,
    )


def confidence_sequence(hits: int, count: int, error: float) -> tuple[float, float]:
    """Interval of a share that holds it after every trial, all of them together with probability 1 - error.

    Shares c for which the mixture of likelihood ratios B(h + 1/2, m + 1/2) / (B(1/2, 1/2) c^h (1 - c)^m) is below
    1 / error, of h hits and m misses; Robbins (1970), Annals of Mathematical Statistics 41.
    """
    if not count:
        return 0.0, 1.0
    missed = count - hits
    mixture = betaln(hits + 0.5, missed + 0.5) - betaln(0.5, 0.5) + np.log(error)

    def above(c: float) -> float:
        return float(mixture - hits * np.log(c) - missed * np.log1p(-c))

    edge = 1e-12
    middle = min(max(hits / count, edge), 1 - edge)
    lower = scipy.optimize.brentq(above, edge, middle) if above(edge) > 0 else 0.0
    upper = scipy.optimize.brentq(above, middle, 1 - edge) if above(1 - edge) > 0 else 1.0
    return float(lower), float(upper)
