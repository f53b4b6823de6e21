"""Wrote the artifacts of this folder, one for each format version, with the numbers they answered when they were new.

    python -m tests.predict.stored.make FOLDER

A stored artifact is never written again: it stands for the files that users keep. When the format changes, add one of
the new version here, run this for it alone, and leave the others as they are.
"""

import json
import sys
from pathlib import Path

import numpy as np

from probinfer import Predictor
from tests.predict import models as m
from tests.predict.fits import fitted

ROWS = {"x": np.array([-1.5, 0.0, 0.25, 2.0])}
LEVELS = (0.05, 0.5, 0.975)


def _thin(latents: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: values[::4].astype(np.float32).astype(float) for name, values in latents.items()}


def normal() -> Predictor:
    """Format 1: a law with a closed form."""
    return fitted(m.line, {"x": m.x, "y": m.y}, _thin(m.LINE), chains=2)


def geometric() -> Predictor:
    """Format 1: a law without one, answered from keyed draws."""
    return fitted(m.geometric, {"x": m.x, "y": m.counts}, _thin({"rate": np.exp(m.draws())}))


def calibrated() -> Predictor:
    """Format 2: counts, calibrated."""
    predictor = fitted(m.poisson, {"x": m.x, "y": m.counts}, _thin({"rate": np.exp(m.draws())}))
    rng = np.random.default_rng(5)
    return predictor.calibrate({"x": rng.normal(size=60)}, rng.poisson(3.0, 60))


def compressed() -> Predictor:
    """Format 3: weighted draws."""
    predictor = fitted(m.line, {"x": m.x, "y": m.y}, m.LINE, chains=4)
    return predictor.compress({"x": np.linspace(-2.0, 2.0, 61)}, 0.03)


STORED = {"v1-normal": normal, "v1-geometric": geometric, "v2-calibrated": calibrated, "v3-compressed": compressed}


def answers(predictor: Predictor) -> dict[str, list]:
    """What is kept of the predictions for `ROWS`."""
    prediction = predictor.predict(ROWS, level=0.8, quantiles=LEVELS)
    columns = {name: values.tolist() for name, values in prediction.columns().items()}
    scores = predictor.log_score(ROWS, np.array([1.0, 0.0, 2.0, 3.0]))
    return {**columns, "log_score": scores.tolist(), "draws": predictor.sample(ROWS, 3, seed=1).tolist()}


def main(folder: str) -> None:
    """Write what is not there yet."""
    for name, make in STORED.items():
        path = Path(folder) / name
        if not path.exists():
            predictor = make()
            predictor.save(path)
            path.with_suffix(".json").write_text(json.dumps(answers(predictor), indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
