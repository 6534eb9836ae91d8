"""BentoML: a service with adaptive batching."""

import os
import sys

import bentoml
from padding import features, from_rows, open_model, run_padded, tuning


@bentoml.service(workers=1, traffic={"timeout": 60}, logging={"access": {"enabled": False}})
class Predictor:
    def __init__(self) -> None:
        self.session = open_model()
        self.features = features()

    @bentoml.api(batchable=True, max_batch_size=int(tuning("batch")), max_latency_ms=1000)
    def predict(self, sequences: list[list[list[float]]]) -> list[list[float]]:
        return run_padded(self.session, [from_rows(rows, self.features) for rows in sequences]).tolist()


if __name__ == "__main__":
    options = ["--host", "127.0.0.1", "--port", sys.argv[1], "--working-dir", sys.path[0]]
    os.execv(sys.executable, [sys.executable, "-m", "bentoml", "serve", "bentoml_server:Predictor", *options])
