"""MLServer: the runtime that benchmarks/serving_peers.py names in its model-settings.json."""

from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse
from served_model import answer, warm


class Served(MLModel):
    async def load(self) -> bool:
        warm()
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        found = answer(NumpyCodec.decode_input(payload.inputs[0]))
        outputs = [NumpyCodec.encode_output(name, values) for name, values in found.items()]
        return InferenceResponse(model_name=self.name, outputs=outputs)
