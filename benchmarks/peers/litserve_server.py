"""LitServe: one worker, batching in Python."""

import sys

import litserve as ls
from padding import features, from_rows, open_model, run_padded, tuning


class Predictor(ls.LitAPI):
    def setup(self, device):
        self.session = open_model()
        self.features = features()

    def decode_request(self, request):
        return from_rows(request["sequence"], self.features)

    def batch(self, inputs):
        return list(inputs)

    def predict(self, inputs):
        if not isinstance(inputs, list):
            return run_padded(self.session, [inputs])[0]
        return run_padded(self.session, inputs)

    def unbatch(self, output):
        return list(output)

    def encode_response(self, output):
        return {"output": output.tolist()}


if __name__ == "__main__":
    api = Predictor(max_batch_size=int(tuning("batch")), batch_timeout=tuning("wait") / 1000)
    server = ls.LitServer(api, accelerator="cpu", workers_per_device=1, timeout=60)
    server.run(
        host="127.0.0.1", port=int(sys.argv[1]), num_api_servers=1, log_level="warning", generate_client_file=False
    )
