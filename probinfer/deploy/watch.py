"""The monitor in a model's artifact, fed with what the server answers. Imports numpy, and the monitor where one is.

While a request is answered, its rows are only put aside: a microsecond. Once a second a thread has the monitor look at
them, at 256 at most, which takes two hundredths of a core with twenty inputs, whatever the load: rows beyond that are
left out before anybody looks at them, which leaves the others exchangeable.
"""

import logging
from collections import deque
from typing import TYPE_CHECKING, Any

import numpy as np

from probinfer.deploy.meter import WATCHED, Meter, labels
from probinfer.deploy.served import One, Served
from probinfer.errors import ProbinferError
from probinfer.predict.engine import Engine
from probinfer.predict.forecaster import Forecaster
from probinfer.predict.interval import Answered, is_classes
from probinfer.predict.point import PointPredictor
from probinfer.predict.population import engine_of
from probinfer.predict.predictor import Predictor
from probinfer.predict.together import Question

if TYPE_CHECKING:
    from probinfer.evaluate.monitor import Monitor, MonitorStatus

logger = logging.getLogger("probinfer.serve")

_MOST = 256  # rows of a look, and as many outcomes


class Watch:
    """Watches one model, or an outcome of it, in one of `workers` processes. `begin` and what `look` does are for one
    thread at a time."""

    def __init__(self, meter: Meter, model: str, workers: int = 1, outcome: str = "") -> None:
        self._meter, self._model, self._workers = meter, model, workers
        self._of = labels(model, outcome)
        self._served: One | None = None
        self._monitor: Monitor | None = None
        self._engine: Engine | None = None
        self._rows: deque[tuple[Question, Answered, int]] = deque()
        self._outcomes: deque[tuple[Question, Answered, np.ndarray]] = deque()
        self._room = [_MOST, _MOST]  # for rows, and for outcomes, until the next look
        self._told: set[str] = set()
        self.watches = False

    @property
    def waiting(self) -> bool:
        """There is something to look at."""
        return bool(self._rows or self._outcomes)

    def of(self, served: One) -> bool:
        """Whether this is the version that is watched."""
        return served is self._served

    def begin(self, served: One) -> None:
        """Watch this version from now on. A monitor that cannot be read is told in the log, and the model served."""
        self._served, self._monitor, self._engine = served, None, None
        if served.predictor.about.get("monitor") is not None:
            from probinfer.evaluate.monitor import Monitor

            try:
                if not isinstance(served.predictor, Forecaster):
                    self._monitor = Monitor.of(served.predictor, shared_by=self._workers)
                if isinstance(served.predictor, Predictor):
                    self._engine = engine_of(served.predictor.program)
            except ProbinferError as error:
                logger.error("monitor not read", extra={"model": self._model, "problem": str(error)})
        self._rows.clear()
        self._outcomes.clear()
        self._told = set()
        for watched in WATCHED:
            self._meter.put("probinfer_monitor_evidence", *self._of, watched, value=0.0)
            self._meter.put("probinfer_monitor_alarm", *self._of, watched, value=0.0)
        self.watches = self._monitor is not None

    def answered(self, question: Question, found: Answered) -> None:
        """Rows that were answered; not those that were asked about again with their outcomes."""
        if question.again:
            return
        count = len(question.hashes)
        taken = min(count, self._room[0])
        if taken < count:
            self._meter.add("probinfer_monitor_skipped_total", *self._of, by=count - taken)
        if taken:
            self._room[0] -= taken
            self._rows.append((question, found, taken))

    def came(self, question: Question, found: Answered, outcomes: np.ndarray) -> None:
        """Outcomes that came, (rows, *event), and what was answered of their rows. Only those of the monitor's level
        are looked at."""
        if self._monitor is None or question.level != self._monitor.level or len(outcomes) > self._room[1]:
            return
        self._room[1] -= len(outcomes)
        self._outcomes.append((question, found, outcomes))

    def look(self, served: One) -> None:
        """Have the monitor look at what waits, of this version. Takes milliseconds, and the first outcomes a
        compilation: not for the event loop's thread."""
        if served is not self._served:
            self.begin(served)
        rows = [self._rows.popleft() for _ in range(len(self._rows))]
        outcomes = [self._outcomes.popleft() for _ in range(len(self._outcomes))]
        self._room = [_MOST, _MOST]
        if self._monitor is None or not (rows or outcomes):
            return
        try:
            status = self._look(self._monitor, rows, outcomes)
        except Exception:  # whatever is wrong with watching, answers go on
            logger.exception("monitor failed", extra={"model": self._model})
            return
        self._tell(status)

    def _look(self, monitor: "Monitor", rows: list, outcomes: list) -> "MonitorStatus":
        if rows:
            names = rows[0][0].columns
            inputs = {name: np.concatenate([q.columns[name][:taken] for q, _, taken in rows]) for name in names}
            epistemic = np.concatenate([found.answer.epistemic_sd[:taken] for _, found, taken in rows])
            total = np.concatenate([found.answer.sd[:taken] for _, found, taken in rows])
            monitor.answered(inputs, epistemic**2, total**2)
            self._meter.add("probinfer_monitor_rows_total", *self._of, by=len(total))
        for question, found, came in outcomes:
            monitor.came(*self._placed(question, found, came))
            self._meter.add("probinfer_monitor_outcomes_total", *self._of, by=came.size)
        return monitor.status

    def _placed(self, question: Question, found: Answered, came: np.ndarray) -> tuple[Any, ...]:
        """P(Y < y), P(Y <= y) and whether y is inside, of every outcome y; as `Monitor.came` takes them."""
        assert isinstance(self._served, Served)
        predictor = self._served.predictor
        if isinstance(predictor, PointPredictor):
            from probinfer.evaluate.point_watch import inside_of, outcome_places

            places = outcome_places(predictor, predictor.values(question.columns), question.groups, came)
            return (*places, inside_of(found, came), question.groups)
        assert self._engine is not None
        if is_classes(self._served.predictor.program):
            codes, number = came.astype(int), np.arange(len(came))
            chances = found.answer.probabilities
            upto = np.cumsum(chances, axis=1)[number, codes]
            inside = found.sets[number, codes] if found.sets is not None else np.ones(len(came), bool)
            return upto - chances[number, codes], upto, inside
        both = self._engine.cdf(question.columns, question.hashes, came).reshape(-1, 2)
        inside = (found.lower <= came) & (came <= found.upper)
        return both[:, 1], both[:, 0], inside.ravel()

    def _tell(self, status: "MonitorStatus") -> None:
        """To the metrics; an alarm also to the log, once, with the column and what to do."""
        evidence, alarms = dict.fromkeys(WATCHED, 0.0), dict.fromkeys(WATCHED, 0.0)
        for one in status.watched:
            kind = one.name if one.name in WATCHED else WATCHED[0]
            evidence[kind] = max(evidence[kind], one.evidence / one.threshold)
            alarms[kind] = max(alarms[kind], float(one.since is not None))
        for kind in WATCHED:
            self._meter.put("probinfer_monitor_evidence", *self._of, kind, value=evidence[kind])
            self._meter.put("probinfer_monitor_alarm", *self._of, kind, value=alarms[kind])
        for alarm in status.alarms:
            if alarm.name not in self._told:
                self._told.add(alarm.name)
                extra = {"model": self._model, "watched": alarm.name, "row": alarm.since, "advice": alarm.advice}
                logger.warning("monitor alarm", extra=extra)
