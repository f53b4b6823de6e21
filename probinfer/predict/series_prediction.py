"""What a forecaster says of times to come. Imports numpy."""

from dataclasses import dataclass, field

import numpy as np

from probinfer.predict.prediction import Prediction


@dataclass(frozen=True, eq=False, repr=False)
class SeriesPrediction(Prediction):
    """A `Prediction` whose rows are times: `times` (steps,) are their numbers, the first observation being time 0.

    What is known of a time is p(y_t | observations so far): the parameters' doubt is `epistemic_sd`, the noise to come
    and the doubt about the present state are `aleatoric_sd`. Of a calibrated forecaster `calibration_rows` are how many
    past forecasts, so many steps ahead, stand behind the interval of each time. `columns()` and `to_frame()` begin with
    `time`.
    """

    times: np.ndarray = field(default_factory=lambda: np.zeros(0, int))

    def columns(self) -> dict[str, np.ndarray]:
        """As `Prediction.columns`, after `time`."""
        return {"time": self.times, **super().columns()}
