"""Everything that can be set, once, from the environment (`ELMAN_...`) and the command line."""

from pathlib import Path
from typing import Annotated

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """Frozen settings of one server. Sizes are in bytes and times in seconds."""

    model_config = SettingsConfigDict(env_prefix="ELMAN_", frozen=True, extra="forbid")

    models: Path = Path("models/store")
    """The model repository: `<name>/<version>/model.onnx`."""
    max_batch: Annotated[int, Field(ge=0, le=1024)] = 0
    """Most sequences that one run advances; 0 takes what a calibration at load finds best for each model."""
    max_chunk: Annotated[int, Field(ge=1)] = 64
    """Most steps that one run advances a sequence by."""
    max_queue: Annotated[int, Field(ge=1)] = 20_000
    """Most unfinished sequences; beyond it requests are refused with 503."""
    max_queue_seconds: Annotated[float, Field(gt=0)] = 60.0
    """Most unfinished work, by the calibrated cost of each sequence; beyond it requests are refused with 503."""
    max_body: Annotated[int, Field(ge=1)] = 64 * 2**20
    """Largest request body."""
    max_steps: Annotated[int, Field(ge=1)] = 1_000_000
    """Longest sequence."""
    max_whole_steps: Annotated[int, Field(ge=1)] = 20_000
    """Longest sequence for a model that cannot be cut in chunks, such as a bidirectional one."""
    load_timeout: Annotated[float, Field(gt=0)] = 60.0
    """How long loading one model may take, which is done in a child process."""
    load_memory: Annotated[int, Field(ge=0)] = 8 * 2**30
    """Address space of that child process; 0 for no limit."""
    poll: Annotated[float, Field(ge=0)] = 5.0
    """How often the repository is looked at for new, changed and removed models; 0 for never."""
    body_timeout: Annotated[float, Field(gt=0)] = 30.0
    """How long a client may take between two pieces of a body."""
    drain_timeout: Annotated[float, Field(ge=0)] = 8.0
    """How long a stopping server waits for what is queued."""
