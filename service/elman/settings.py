"""Everything that can be set, once, from the environment (`ELMAN_...`) and the command line."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict


class Settings(BaseSettings):
    """Frozen settings of one server. Sizes are in bytes and times in seconds."""

    model_config = SettingsConfigDict(env_prefix="ELMAN_", frozen=True, extra="forbid")

    models: Path | None = None
    """The model repository: `<name>/<version>/model.onnx`. A server must be given one."""
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

    workers: Annotated[int, Field(ge=1, le=256)] = 1
    """Processes that serve one address, each with the models of its own, and all with the sessions of one store."""
    api_keys: Annotated[tuple[str, ...], NoDecode] = ()
    """Keys that callers show as `Authorization: Bearer KEY`, separated by commas; none lets everybody in as one."""
    store: Literal["lmdb", "memory"] = "lmdb"
    """Where sessions live: in a file that outlives the server, or in its memory."""
    store_dir: Path = Path(".elman")
    """The folder of that file."""
    store_bytes: Annotated[int, Field(ge=2**20)] = 64 * 2**30
    """How large that file may grow. It is no larger than what it holds."""
    store_sync: bool = False
    """Whether each write reaches the disk before its answer goes out. Without it nothing is lost when the server is
    killed, but the last seconds may be when the machine loses power."""
    session_ttl: Annotated[float, Field(gt=0)] = 3600.0
    """How long a session lives after its last step, where its creator does not say."""
    max_session_ttl: Annotated[float, Field(gt=0)] = 30 * 86400.0
    """The longest that its creator may ask for."""
    max_sessions: Annotated[int, Field(ge=0)] = 1_000_000
    """Most sessions of one caller; beyond it 429."""
    max_session_bytes: Annotated[int, Field(ge=0)] = 8 * 2**30
    """Most state that the sessions of one caller may hold; beyond it 429."""
    hot_session_bytes: Annotated[int, Field(ge=0)] = 256 * 2**20
    """Memory for sessions kept at hand, which spares a read of the store for each step."""
    state_keys: Annotated[tuple[str, ...], NoDecode] = ()
    """Secrets that seal state tokens, separated by commas: the first seals, all open. With none, a random one is kept
    in the store's folder."""
    token_ttl: Annotated[float, Field(gt=0)] = 7 * 86400.0
    """How long a state token is good for."""
    max_streams: Annotated[int, Field(ge=0)] = 10_000
    """Most WebSocket streams at once."""
    stream_timeout: Annotated[float, Field(gt=0)] = 30.0
    """How long a stream waits for a client that does not read before it is dropped."""

    @field_validator("api_keys", "state_keys", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        return value

    @property
    def repository(self) -> Path:
        """The model repository. Raises ValueError if none was given."""
        if self.models is None:
            raise ValueError(
                "there is no model repository: give Settings(models=FOLDER) or ELMAN_MODELS, "
                "a folder of <name>/<version>/model.onnx"
            )
        return self.models

    def environment(self) -> dict[str, str]:
        """The environment variables that give these settings."""
        given = {name: getattr(self, name) for name in type(self).model_fields}
        values = {name: value for name, value in given.items() if value is not None}
        texts = {name: ",".join(value) if isinstance(value, tuple) else str(value) for name, value in values.items()}
        return {f"ELMAN_{name.upper()}": text for name, text in texts.items()}
