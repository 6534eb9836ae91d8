"""PyTriton: Triton Inference Server, with its dynamic batching in front of a function in Python.

Triton batches tensors of one shape only, so a sequence comes as one element of bytes, whatever its length.
"""

import os
import sys
import sysconfig

import numpy as np
from padding import decode, features, free_port, open_model, run_padded, tuning
from pytriton.model_config import DynamicBatcher, ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig

if __name__ == "__main__":
    # Triton runs Python in a process of its own, linked to whichever library of it comes first.
    os.environ["LD_LIBRARY_PATH"] = sysconfig.get_config_var("LIBDIR")
    session, width = open_model(), features()

    def predict(requests):
        outputs = run_padded(session, [decode(request["input"][0, 0], width)[1] for request in requests])
        return [{"output": outputs[row : row + 1]} for row in range(len(outputs))]

    config = TritonConfig(
        http_address="127.0.0.1",
        http_port=int(sys.argv[1]),
        grpc_port=free_port(),
        allow_metrics=False,
    )
    with Triton(config=config) as triton:
        triton.bind(
            model_name="model",
            infer_func=predict,
            inputs=[Tensor(name="input", dtype=np.bytes_, shape=(1,))],
            outputs=[Tensor(name="output", dtype=np.float32, shape=(-1,))],
            config=ModelConfig(
                max_batch_size=int(tuning("batch")),
                batcher=DynamicBatcher(max_queue_delay_microseconds=int(1000 * tuning("wait"))),
            ),
        )
        triton.serve()
