"""Logs as lines of JSON, one for each record."""

import logging
from datetime import UTC, datetime
from typing import Any

from elman.codec.faults import encode_any
from elman.http.spans import Sampled


class JSONFormatter(logging.Formatter):
    """Formats a record as one line of JSON, with `fields` of the record beside its message."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "process": record.process,
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return encode_any(line).decode()


def of_request(request_id: bytes, **fields: Any) -> dict[str, Any]:
    """The `extra` of a log line that concerns a request. A sampled one has its trace beside its id."""
    trace = {"trace_id": f"{request_id.trace:032x}"} if isinstance(request_id, Sampled) else {}
    return {"fields": {"request_id": request_id.decode(), **trace, **fields}}


JSON_LOGS: dict[str, Any] = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"json": {"()": "elman.http.logs.JSONFormatter"}},
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "json", "stream": "ext://sys.stderr"}},
    "root": {"handlers": ["stderr"], "level": "WARNING"},
    "loggers": {name: {"level": "INFO"} for name in ("uvicorn.error", "uvicorn.access")},
}
"""A configuration of `logging` that writes every line to stderr as JSON."""
