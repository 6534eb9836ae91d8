"""All settings of a server, from the environment (`ELMAN_...`) or the command line."""

import re
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from elman.cores import given_cores, usable_cores, workers_for

_PREFIX = "ELMAN_"
# Variables of the command line that are no settings.
_OPTIONS = frozenset({"HOST", "PORT", "ADMIN_HOST", "URL", "API_KEY"})
# What Kubernetes sets in every pod beside a service whose name begins with "elman".
_SERVICE_LINK = re.compile(r"(\w+_)?(SERVICE_(HOST|PORT)(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)")
_STORE_SCHEMES = (
    "redis",
    "rediss",
    "unix",
    "redis+sentinel",
    "rediss+sentinel",
    "redis+cluster",
    "rediss+cluster",
)
_ORIGIN = re.compile(r"\*|null|https?://[^/?#@\s]+")


class Settings(BaseSettings):
    """Frozen settings of one server. Sizes are in bytes and times in seconds."""

    model_config = SettingsConfigDict(env_prefix="ELMAN_", frozen=True, extra="forbid", hide_input_in_errors=True)

    models: Path | None = None
    """The model repository: `<name>/<version>/model.onnx`. A server must be given one."""
    max_batch: Annotated[int, Field(ge=0, le=1024)] = 0
    """Most rows (sequences) of one run; 0 uses the best number for each model, as calibrated at load."""
    max_chunk: Annotated[int, Field(ge=1)] = 64
    """Most steps by which one run advances a sequence."""
    max_queue: Annotated[int, Field(ge=1)] = 20_000
    """Most unfinished sequences; beyond it requests are refused with 503."""
    max_queue_seconds: Annotated[float, Field(gt=0)] = 60.0
    """Most unfinished work in seconds, by the calibrated cost of each sequence; beyond it requests are refused with
    503."""
    max_body: Annotated[int, Field(ge=1)] = 64 * 2**20
    """Largest request body."""
    max_steps: Annotated[int, Field(ge=1)] = 1_000_000
    """Longest sequence."""
    max_whole_steps: Annotated[int, Field(ge=1)] = 20_000
    """Longest sequence for a model that cannot be run in chunks, such as a bidirectional one."""
    load_timeout: Annotated[float, Field(gt=0)] = 60.0
    """How long loading one model may take. It is done in a child process."""
    load_memory: Annotated[int, Field(ge=0)] = 8 * 2**30
    """Address space of that child process; 0 for no limit."""
    load_cache_dir: Path | None = None
    """The folder that keeps what was proved and measured of each model, for the next start. Without it: `loads` in the
    store's folder, or none with `store=memory`."""
    load_cache_bytes: Annotated[int, Field(ge=0)] = 2**30
    """Largest size of that folder; 0 keeps nothing, and loads every model anew."""
    poll: Annotated[float, Field(ge=0)] = 5.0
    """Seconds between two checks of the repository for new, changed and removed models; 0 for never."""
    body_timeout: Annotated[float, Field(gt=0)] = 30.0
    """How long a client may take between two pieces of a body."""
    drain_timeout: Annotated[float, Field(ge=0)] = 8.0
    """How long a stopping server waits for queued requests. A few seconds later it ends in any case."""
    run_timeout: Annotated[float, Field(gt=0)] = 10.0
    """How long one run of a model may take beyond ten times its calibrated cost. A longer run is stopped, and its model
    is suspended for a minute. `/livez` is 503 once a run has taken twice that time."""

    workers: Annotated[int, Field(ge=1, le=256)] = 1
    """Processes that serve one address. Each loads its own copy of the models; all share one session store. `auto` is
    one for each core that the server may use. `elman serve` takes that for the default where a container has a limit
    of processor time. Where it has a limit of memory, both are at most one for each 512 MiB."""
    api_keys: Annotated[tuple[str, ...], NoDecode] = ()
    """API keys, separated by commas, which callers send as `Authorization: Bearer KEY`. They have the roles `infer` and
    `sessions`. Without any keys, everybody may do everything, and all share the same sessions."""
    admin_api_keys: Annotated[tuple[str, ...], NoDecode] = ()
    """API keys with all roles, separated by commas. They can load and unload models too."""
    api_keys_file: Path | None = None
    """File of named keys, with roles, limits and expiry, as `elman keys` writes it. It is read again when it
    changes."""
    admin_port: Annotated[int, Field(ge=0, le=65535)] | None = None
    """A second port, which alone serves `/metrics` and the routes that load and unload models; 0 takes a free one."""
    ssl_certfile: Path | None = None
    """Certificate of the server, in PEM, with those between it and the root after it. With it, every port speaks TLS
    only."""
    ssl_keyfile: Path | None = None
    """Private key of the certificate, if it is not in the same file."""
    ssl_keyfile_password: str | None = None
    """Password of the private key."""
    ssl_ca_certs: Path | None = None
    """Certificates of the authorities that clients need a certificate of, in PEM. Without it, clients need none."""
    allow_anyone: bool = False
    """Whether a server without keys may listen on an address that other machines reach."""
    allowed_hosts: Annotated[tuple[str, ...], NoDecode] = ()
    """Names, separated by commas, that the `Host` of a request may have beside local names (`localhost`, loopback
    addresses, and names without a dot). `*.example.com` is all names below it, `*` any. Without any: only local names
    if the server listens on a loopback address, else any name."""
    cors_origins: Annotated[tuple[str, ...], NoDecode] = ()
    """Origins of other web pages, separated by commas, that may call the server, such as `https://app.example.com`; `*`
    is any."""
    max_connections: Annotated[int, Field(ge=1)] = 16_384
    """Most connections at once, WebSockets included. More may only ask `/livez` and `/readyz`. Lower if the process may
    not open so many files."""
    max_address_connections: Annotated[int, Field(ge=0)] = 0
    """Most connections from one address (for IPv6, one network of 64 bits); 0 is half of `max_connections`. Behind a
    proxy, all clients have the address of the proxy."""
    grpc_port: Annotated[int, Field(ge=0, le=65535)] | None = None
    """Port of gRPC; 0 for any that is free. Without it there is no gRPC. Needs the extra `grpc`."""
    grpc_host: str = "127.0.0.1"
    """Address that gRPC listens on. `elman serve` sets it to that of HTTP."""
    store: Annotated[str, Field(repr=False)] = "lmdb"
    """Where sessions are kept: `lmdb`, a file that outlives the server, `memory`, or the URL of a Redis or Valkey that
    many servers share: `redis://`, `rediss://` with TLS, `redis+sentinel://HOST,HOST/SERVICE`, `redis+cluster://`. A
    URL needs the extra `redis`."""
    store_replicas: Annotated[int, Field(ge=0)] = 0
    """Replicas of Redis that must have a write before it is acknowledged (`WAIT`)."""
    store_dir: Path = Path(".elman")
    """The folder of the store's file, and of what several workers share."""
    store_bytes: Annotated[int, Field(ge=2**20)] = 64 * 2**30
    """Largest size of the store's file. The file uses only the space that its data needs."""
    store_sync: bool = False
    """Whether each write reaches the disk before its answer is sent. Without it, nothing is lost if the server is
    killed, but the last seconds can be lost if the machine loses power."""
    store_timeout: Annotated[float, Field(gt=0)] = 10.0
    """How long a request waits for the session store; after that 503."""
    session_ttl: Annotated[float, Field(gt=0)] = 3600.0
    """How long a session lives after its last step, if it was created without a `ttl`."""
    max_session_ttl: Annotated[float, Field(gt=0)] = 30 * 86400.0
    """Longest `ttl` that a session may be created with."""
    max_sessions: Annotated[int, Field(ge=0)] = 1_000_000
    """Most sessions of one caller; beyond it 429."""
    max_session_bytes: Annotated[int, Field(ge=0)] = 8 * 2**30
    """Most state of all sessions of one caller; beyond it 429."""
    hot_session_bytes: Annotated[int, Field(ge=0)] = 256 * 2**20
    """Memory for a cache of sessions, which saves reading the store at each step."""
    log_format: Literal["text", "json"] = "text"
    """How log lines look: `text`, or `json` for one object a line, with the request id where one is concerned."""
    tracing: bool = False
    """Whether spans of sampled requests are sent to an OpenTelemetry collector. The `OTEL_...` variables say where to,
    and which are sampled. Needs the extra `otel`."""
    state_keys: Annotated[tuple[str, ...], NoDecode] = ()
    """Secrets for state tokens, separated by commas. The first one seals tokens, all of them open tokens. Without any,
    a random one is kept in the store's folder, or in Redis for all servers."""
    token_ttl: Annotated[float, Field(gt=0)] = 7 * 86400.0
    """How long a state token is valid."""
    max_streams: Annotated[int, Field(ge=0)] = 10_000
    """Most WebSocket streams at once."""
    stream_timeout: Annotated[float, Field(gt=0)] = 30.0
    """How long a stream waits for a client that does not read, before it is closed."""

    @field_validator("api_keys", "admin_api_keys", "state_keys", "allowed_hosts", "cors_origins", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        parts = tuple(part.strip() for part in value.split(",")) if isinstance(value, str) else value
        if isinstance(parts, tuple | list) and "" in parts:
            raise ValueError("an entry of the list is empty; leave the setting out to have none")
        return parts

    @field_validator("workers", mode="before")
    @classmethod
    def _count_cores(cls, value: Any) -> Any:
        return workers_for(given_cores() or usable_cores()) if value == "auto" else value

    @field_validator("store")
    @classmethod
    def _check_store(cls, store: str) -> str:
        scheme, is_url, rest = store.partition("://")
        kinds = f"lmdb, memory, or a URL that begins with one of {', '.join(f'{one}://' for one in _STORE_SCHEMES)}"
        if not is_url and store not in ("lmdb", "memory"):
            raise ValueError(f"a store is {kinds}")
        if is_url and scheme not in _STORE_SCHEMES:
            raise ValueError(f"no store is reached by {scheme}://; a store is {kinds}")
        hosts, _, path = rest.partition("?")[0].partition("/")
        if scheme.endswith("+sentinel") and not path.strip("/"):
            raise ValueError("the URL of a Sentinel ends with the name of its service: redis+sentinel://HOST/SERVICE")
        if is_url and not (path if scheme == "unix" else hosts.rpartition("@")[2]):
            raise ValueError("the URL of the store names no host")
        return store

    @field_validator("cors_origins")
    @classmethod
    def _check_origins(cls, origins: tuple[str, ...]) -> tuple[str, ...]:
        for origin in origins:
            if not _ORIGIN.fullmatch(origin):
                raise ValueError(f"{origin!r} is not an origin, such as https://app.example.com, without a path")
        return origins

    @property
    def is_remote(self) -> bool:
        """Whether the sessions are kept in Redis, which servers on other machines may share."""
        return "://" in self.store

    @property
    def has_keys(self) -> bool:
        """Whether callers need a key."""
        return bool(self.api_keys or self.admin_api_keys or self.api_keys_file)

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
        values = {name: value for name, value in given.items() if value not in (None, ())}
        texts = {name: ",".join(value) if isinstance(value, tuple) else str(value) for name, value in values.items()}
        return {_PREFIX + name.upper(): text for name, text in texts.items()}


def check_names(variables: Iterable[str]) -> None:
    """Raise ValueError if an environment variable looks like a setting (`ELMAN_...`) and is none."""
    known = [name.upper() for name in Settings.model_fields] + sorted(_OPTIONS)
    for variable in variables:
        name = variable.upper().removeprefix(_PREFIX)
        if variable.upper() == name or name in known or _SERVICE_LINK.fullmatch(name):
            continue
        near = get_close_matches(name, known, 1)
        hint = f"; did you mean {_PREFIX}{near[0]}?" if near else "; docs/settings.md lists the settings"
        raise ValueError(f"{variable} is not a setting{hint}")
