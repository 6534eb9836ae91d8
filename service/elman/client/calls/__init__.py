"""Every call of the client as a value: what to send, how to read the response, and whether it may be sent twice.

Nothing here sends. The blocking and the asynchronous client share these calls and differ only in how they send them.
"""

from elman.client.calls.call import Call, CallFactory
from elman.client.calls.model import ModelCalls
from elman.client.calls.options import (
    ForecastOptions,
    GenerateOptions,
    InfluenceOptions,
    PredictOptions,
    Returns,
    StepOptions,
)
from elman.client.calls.session import SessionCalls

__all__ = [
    "Call",
    "CallFactory",
    "ForecastOptions",
    "GenerateOptions",
    "InfluenceOptions",
    "ModelCalls",
    "PredictOptions",
    "Returns",
    "SessionCalls",
    "StepOptions",
]
