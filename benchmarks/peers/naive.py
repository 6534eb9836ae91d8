"""FastAPI, pydantic and ONNX Runtime, as most people write it."""

import os
import sys

import numpy as np
import onnxruntime as ort
import uvicorn
from fastapi import FastAPI, Request, Response
from pydantic import BaseModel

app = FastAPI()
# One thread, as ONNX Runtime would choose on a machine of one core: here it sees more, and sets its threads on cores
# that the server was not given.
options = ort.SessionOptions()
options.intra_op_num_threads = 1
session = ort.InferenceSession(os.environ["BENCH_MODEL"], options)
features = int(os.environ["BENCH_FEATURES"])


class PredictRequest(BaseModel):
    sequence: list[list[float]]


class PredictResponse(BaseModel):
    output: list[float]


@app.post("/predict")
def predict(request: PredictRequest) -> PredictResponse:
    data = np.array([request.sequence], np.float32)
    (output,) = session.run(None, {"input": data})
    return PredictResponse(output=output[0, -1].tolist())


@app.post("/binary")
async def binary(request: Request) -> Response:
    data = np.frombuffer(await request.body(), np.float32).reshape(1, -1, features)
    (output,) = session.run(None, {"input": data})
    return Response(output[0, -1].tobytes(), media_type="application/octet-stream")


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), access_log=False, log_level="warning")
