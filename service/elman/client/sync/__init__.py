"""The blocking client. `sender` and `websocket` are written by hand; the rest is generated from `elman.client.aio`."""
