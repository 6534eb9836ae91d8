"""Ray Serve: one replica that is asked directly, set for throughput, batching with serve.batch."""

import os
import signal
import sys

# Read by Ray as it is imported.
os.environ |= {
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
    "RAY_SERVE_ENABLE_DIRECT_INGRESS": "1",
    "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT": sys.argv[1],
    "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT": str(int(sys.argv[1]) + 1),
}

import ray
from padding import decode, encode, features, free_port, open_model, run_padded, tuning
from ray import serve
from starlette.requests import Request
from starlette.responses import Response


@serve.deployment(num_replicas=1, max_ongoing_requests=1000, ray_actor_options={"num_cpus": 0})
class Predictor:
    def __init__(self):
        self.session = open_model()
        self.features = features()

    @serve.batch(max_batch_size=int(tuning("batch")), batch_wait_timeout_s=tuning("wait") / 1000)
    async def run(self, sequences):
        return list(run_padded(self.session, sequences))

    async def __call__(self, request: Request) -> Response:
        is_json, sequence = decode(await request.body(), self.features)
        return Response(encode(is_json, await self.run(sequence)), media_type="application/json")


if __name__ == "__main__":
    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level="error")
    serve.start(http_options={"host": "127.0.0.1", "port": free_port()})
    serve.run(Predictor.bind(), route_prefix="/predict")
    signal.pause()
