"""Elman on Ray Serve: one replica behind Ray's proxy. Arguments: the port, the models, and the folder of the store."""

import os
import signal
import sys
from pathlib import Path

# Read by Ray as it is imported.
os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}

import ray
from ray import serve

from elman.ray import deployment
from elman.settings import Settings

if __name__ == "__main__":
    port, models, store = sys.argv[1:]
    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error")
    serve.start(http_options={"host": "127.0.0.1", "port": int(port)})
    settings = Settings(models=Path(models), store_dir=Path(store), poll=0)
    serve.run(deployment(settings, max_ongoing_requests=1000).bind())
    signal.pause()
