"""Logs as JSON: each line is an object, tells of which request it is, and holds nothing that belongs to a caller."""

import json
import logging
import sys
from pathlib import Path

import pytest
from websockets.sync.client import connect

from elman.http.logs import JSONFormatter, of_request
from tests.running import running_server

# They start servers of their own.
pytestmark = pytest.mark.slow

KEY = "a-key-that-nobody-may-see"
NUMBER = 0.123454321
PREDICT = "/v1/models/vowels-gru/predict"


def test_every_line_is_an_object_that_tells_of_its_request_and_holds_no_secret(small_store: Path) -> None:
    flags = ("--access-log", "--log-level", "debug")
    with running_server(small_store, *flags, log_format="json", api_keys=KEY) as server:
        client = server.client
        client.headers["authorization"] = f"Bearer {KEY}"
        inputs = [[NUMBER] * 12] * 3
        answer = client.post(PREDICT, json={"sequence": inputs, "return_state": True}, headers={"x-request-id": "mine"})
        token = answer.json()["results"][0]["state"]
        assert client.post(PREDICT, json={"sequence": inputs, "state": token}).status_code == 200
        assert client.post(PREDICT, json={"sequence": [[NUMBER]]}).status_code == 422
        assert client.post(PREDICT, params={"state": token}, content=b"x").status_code >= 400
        session = client.post("/v1/models/vowels-gru/sessions", json={}).json()["id"]
        assert client.post(f"/v1/sessions/{session}/steps", json={"sequence": inputs}).status_code == 200
        assert client.get(f"/v1/sessions/{session}").status_code == 200
        assert client.get(f"/v1/%73essions/{session}").status_code == 200
        address = f"{server.url.replace('http', 'ws')}/v1/models/vowels-gru/stream?session={session}"
        with connect(address, additional_headers={"authorization": f"Bearer {KEY}"}) as stream:
            stream.recv()
            stream.send(json.dumps({"sequence": inputs}))
            assert "output" in str(stream.recv())
        text = server.log.read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    access = [line for line in lines if line["logger"] == "uvicorn.access"]
    assert len(access) >= 8
    assert all(line["request_id"] and line["seconds"] > 0 for line in access)
    (mine,) = [line for line in access if line["request_id"] == "mine"]
    assert (mine["method"], mine["path"], mine["status"]) == ("POST", PREDICT, 200)
    for secret in (KEY, token, session, "0.1234"):
        assert secret not in text


def test_a_text_that_is_not_utf8_is_a_line_too() -> None:
    """As the name of a file may be."""
    record = logging.getLogger("elman").makeRecord("elman", 30, "", 0, "%s is refused", ("m\udc80",), None)
    assert json.loads(JSONFormatter().format(record))["message"] == "m\udc80 is refused"


def test_a_traceback_stands_in_the_line_of_its_request() -> None:
    try:
        raise RuntimeError("a defect")
    except RuntimeError:
        record = logging.getLogger("elman").makeRecord(
            "elman", logging.ERROR, "", 0, "request %s failed", ("a-1",), sys.exc_info(), extra=of_request(b"a-1")
        )
    text = JSONFormatter().format(record)
    line = json.loads(text)
    assert "\n" not in text
    assert (line["level"], line["request_id"], line["message"]) == ("error", "a-1", "request a-1 failed")
    assert line["exception"].endswith("RuntimeError: a defect")
