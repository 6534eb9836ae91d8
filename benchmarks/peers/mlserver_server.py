"""MLServer: one process, adaptive batching.

Its batches are the sequences' numbers one after the other; that each one's length comes back with them is by a
parameter of its input, which MLServer collects.
"""

import sys

import numpy as np
import uvloop
from mlserver import MLModel, MLServer, ModelSettings, Settings
from mlserver.types import InferenceRequest, InferenceResponse, ResponseOutput
from padding import features, free_port, open_model, run_padded, tuning


class Predictor(MLModel):
    async def load(self) -> bool:
        self.session = open_model()
        self.features = features()
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        (batch,) = payload.inputs
        lengths = batch.parameters.length  # of one sequence a number, of several a list
        ends = np.cumsum(lengths)
        steps = np.array(batch.data.root, np.float32).reshape(-1, self.features)
        outputs = run_padded(self.session, np.split(steps, ends[:-1]))
        answer = ResponseOutput(
            name="output", shape=list(outputs.shape), datatype="FP32", data=outputs.reshape(-1).tolist()
        )
        return InferenceResponse(model_name=self.name, outputs=[answer])


async def serve() -> None:
    settings = Settings(
        debug=False,
        parallel_workers=0,
        host="127.0.0.1",
        http_port=int(sys.argv[1]),
        grpc_port=free_port(),
        metrics_endpoint=None,
    )
    model = ModelSettings(
        name="model",
        implementation=Predictor,
        max_batch_size=int(tuning("batch")),
        max_batch_time=tuning("wait") / 1000,
    )
    await MLServer(settings).start([model])


if __name__ == "__main__":
    uvloop.run(serve())
