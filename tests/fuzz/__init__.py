"""Fuzzing. Needs the extra `test-all`. The tests run each of these for some seconds; by command they take long.

    python -m tests.fuzz codec --seconds 3600     what is decoded, with atheris
    python -m tests.fuzz grpc --seconds 3600      messages to infer, with atheris
    python -m tests.fuzz http --seconds 3600      heads and framing, with atheris
    python -m tests.fuzz.heads --cases 1000000     heads that repeat the one before, against the parser
    python -m tests.fuzz.contract http://127.0.0.1:8000     a running server and its OpenAPI document, with schemathesis

Each input of the first three must give an answer or an error of the project, in time that is linear in its length. What
breaks this is left in the folder given by `--findings`, and run again by `python -m tests.fuzz codec FILE`.
"""
