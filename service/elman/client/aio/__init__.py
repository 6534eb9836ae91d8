"""The asynchronous client. The blocking one in `elman.client.sync` is generated from it, but for two modules.

`sender` and `websocket` are written by hand on both sides, since time limits, threads and sockets differ there.
"""
