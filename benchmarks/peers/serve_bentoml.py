"""BentoML: `Single` answers each request in the event loop, `Batched` with BentoML's adaptive batching."""

import bentoml
import numpy as np
from served_model import MOST, NAMES, answer, warm

QUIET = {"access": {"enabled": False}}


@bentoml.service(workers=1, traffic={"timeout": 60}, logging=QUIET)
class Single:
    def __init__(self):
        warm()

    @bentoml.api
    async def predict(self, X: list[list[float]]) -> dict[str, list[float]]:
        return {name: values.tolist() for name, values in answer(np.array(X)).items()}


@bentoml.service(workers=1, traffic={"timeout": 60}, logging=QUIET)
class Batched:
    def __init__(self):
        warm()

    @bentoml.api(batchable=True, max_batch_size=MOST, max_latency_ms=1000)
    def predict(self, X: np.ndarray) -> np.ndarray:
        found = answer(np.asarray(X))
        return np.stack([found[name] for name in NAMES], axis=1)
