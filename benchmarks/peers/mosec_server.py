"""mosec: HTTP and batching in Rust, one worker in Python."""

import sys

from mosec import Server, Worker
from padding import decode, encode, features, open_model, run_padded, tuning


class Predictor(Worker):
    resp_mime_type = "application/json"

    def __init__(self):
        super().__init__()
        self.session = open_model()
        self.features = features()

    def deserialize(self, data):
        return decode(data, self.features)

    def forward(self, data):
        if not isinstance(data, list):  # without batching a worker is given one request
            return self.forward([data])[0]
        outputs = run_padded(self.session, [sequence for _, sequence in data])
        return [(is_json, row) for (is_json, _), row in zip(data, outputs, strict=True)]

    def serialize(self, data):
        return encode(*data)


if __name__ == "__main__":
    sys.argv = [sys.argv[0], "--address", "127.0.0.1", "--port", sys.argv[1], "--log-level", "warning"]
    server = Server()
    server.append_worker(
        Predictor, num=1, max_batch_size=int(tuning("batch")), max_wait_time=int(tuning("wait")), timeout=60
    )
    server.run()
