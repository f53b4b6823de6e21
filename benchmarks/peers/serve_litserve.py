"""LitServe: python serve_litserve.py PORT single|batched. One API server and one worker, which are two processes."""

import sys

import litserve as ls
import numpy as np


class Served(ls.LitAPI):
    def setup(self, device):
        import served_model  # in the worker alone

        served_model.warm()
        self.answer = served_model.answer

    def decode_request(self, request):
        return np.array(request["X"])

    def predict(self, X):
        return self.answer(X[None])

    def encode_response(self, output):
        return {name: float(value[0]) for name, value in output.items()}


class Batched(Served):
    def batch(self, inputs):
        return np.stack(inputs)

    def predict(self, X):
        return self.answer(X)

    def unbatch(self, output):
        return [{name: values[row : row + 1] for name, values in output.items()} for row in range(len(output["mean"]))]


if __name__ == "__main__":
    batched = sys.argv[2] == "batched"
    api = Batched(max_batch_size=64, batch_timeout=0.001) if batched else Served()
    server = ls.LitServer(api, accelerator="cpu", devices=1, workers_per_device=1, timeout=60)
    server.run("127.0.0.1", int(sys.argv[1]), num_api_servers=1, log_level="error", generate_client_file=False)
