"""Large bodies, decoded in a process of their own: decoding holds the interpreter, and everyone else would wait."""

import asyncio
import pickle
import sys
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from elman.child import Child, ChildDied, answer_calls
from elman.codec.format import Format
from elman.codec.json import JSONDecoder
from elman.codec.request import Limits, PredictRequest, StepRequest
from elman.errors import ElmanError

# Far longer than the largest body takes.
_TIMEOUT = 120.0


class DecodingWorker:
    """Decodes JSON requests in a child process, one at a time. The child is started by the first."""

    def __init__(self) -> None:
        self._child = Child("elman.codec.worker")
        self._turn = asyncio.Lock()

    async def decode(self, content: bytes, decoder: JSONDecoder) -> PredictRequest:
        """As `decoder.decode`, off the event loop. Raises RequestError."""
        async with self._turn:
            request = await asyncio.to_thread(self._decode, content, decoder, None)
        assert isinstance(request, PredictRequest), "the child answers what it is asked"
        return request

    async def decode_step(
        self, content: bytes, decoder: JSONDecoder, defaults: Mapping[str, Any] = MappingProxyType({})
    ) -> StepRequest:
        """As `decoder.decode_step`, off the event loop. Raises RequestError."""
        async with self._turn:
            request = await asyncio.to_thread(self._decode, content, decoder, dict(defaults))
        assert isinstance(request, StepRequest), "the child answers what it is asked"
        return request

    def close(self) -> None:
        """Stop the child."""
        self._child.close()

    def _decode(
        self, content: bytes, decoder: JSONDecoder, defaults: dict[str, Any] | None
    ) -> PredictRequest | StepRequest:
        """A step request where there are defaults for one, though they be empty."""
        call = pickle.dumps((decoder.format, decoder.limits, content, defaults), protocol=5)
        try:
            answer = pickle.loads(self._child.call(call, _TIMEOUT))
        except (ChildDied, TimeoutError):
            return _decoded(decoder, content, defaults)
        if isinstance(answer, ElmanError):
            raise answer
        assert isinstance(answer, PredictRequest | StepRequest), "the child answers with one or the other"
        return answer


def _decoded(decoder: JSONDecoder, content: bytes, defaults: dict[str, Any] | None) -> PredictRequest | StepRequest:
    return decoder.decode(content) if defaults is None else decoder.decode_step(content, defaults)


def _answer(call: bytes, decoders: dict[tuple[Format, Limits], JSONDecoder]) -> bytes:
    format, limits, content, defaults = pickle.loads(call)
    decoder = decoders.get((format, limits))
    if decoder is None:
        decoder = decoders[format, limits] = JSONDecoder(format, limits)
    try:
        return pickle.dumps(_decoded(decoder, content, defaults), protocol=5)
    except ElmanError as error:
        return pickle.dumps(error, protocol=5)


if __name__ == "__main__":
    known: dict[tuple[Format, Limits], JSONDecoder] = {}
    answer_calls(int(sys.argv[1]), lambda call: _answer(call, known))
