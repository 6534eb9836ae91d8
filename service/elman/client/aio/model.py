"""A model of the asynchronous client."""

from collections.abc import Coroutine, Sequence
from typing import Any, Literal, cast, overload

from elman.client.aio.forecaster import AsyncForecaster
from elman.client.aio.opening import Opening
from elman.client.aio.session import AsyncSession, open_session, read_sequences
from elman.client.aio.streams import AsyncStream, AsyncTokens
from elman.client.calls import (
    GenerateOptions,
    InfluenceOptions,
    PredictOptions,
    Returns,
    StepOptions,
)
from elman.client.calls.call import id_of
from elman.client.config import Timeout
from elman.client.inputs import SequenceLike, SequenceList
from elman.client.progress import Progress, report_progress
from elman.client.results import Example, Generation, Influence, Result
from elman.client.streams import StreamProtocol
from elman.client.wire import Prompt, StaticLike


class AsyncModel(AsyncForecaster):
    """One model of a server, which `AsyncClient.model` gives.

    All its methods raise `UnknownModel` if the server has no such model or version.
    """

    @property
    def name(self) -> str:
        """Its name."""
        return self._calls.name

    def __repr__(self) -> str:
        return f"AsyncModel({self.name!r} of {self._sender.url})"

    async def examples(self) -> list[Example]:
        """Held-out data to try the model with; empty if it has none."""
        return await self._sender.send(self._calls.examples())

    @overload
    async def predict(
        self,
        x: SequenceLike,
        *,
        returns: Returns = "final",
        decode: bool = True,
        top: int = 3,
        heads: Sequence[str] | None = None,
        static: StaticLike | None = None,
        state: str | None = None,
        return_state: bool = False,
        hidden: bool = False,
        timeout: Timeout | float | None = None,
    ) -> Result: ...

    @overload
    async def predict(
        self,
        x: SequenceList[Any],
        *,
        returns: Returns = "final",
        decode: bool = True,
        top: int = 3,
        heads: Sequence[str] | None = None,
        static: StaticLike | Sequence[StaticLike] | None = None,
        state: str | Sequence[str] | None = None,
        return_state: bool = False,
        hidden: bool = False,
        timeout: Timeout | float | None = None,
        progress: Progress = False,
    ) -> list[Result]: ...

    @overload
    async def predict(
        self,
        x: object,
        *,
        returns: Returns = "final",
        decode: bool = True,
        top: int = 3,
        heads: Sequence[str] | None = None,
        static: StaticLike | Sequence[StaticLike] | None = None,
        state: str | Sequence[str] | None = None,
        return_state: bool = False,
        hidden: bool = False,
        timeout: Timeout | float | None = None,
        progress: Progress = False,
    ) -> Result | list[Result]: ...

    async def predict(
        self,
        x: object,
        *,
        returns: Returns = "final",
        decode: bool = True,
        top: int = 3,
        heads: Sequence[str] | None = None,
        static: StaticLike | Sequence[StaticLike] | None = None,
        state: str | Sequence[str] | None = None,
        return_state: bool = False,
        hidden: bool = False,
        timeout: Timeout | float | None = None,
        progress: Progress = False,
    ) -> Result | list[Result]:
        """Run the model over one sequence, or over each sequence of a list.

        >>> import numpy as np
        >>> result = await client.model("vowels-gru").predict(np.zeros((7, 12), np.float32))
        >>> result.output.shape, result.length
        ((9,), 7)
        >>> results = await client.model("names-gru").predict(["Lindqvist", "Rossi"])
        >>> [result.label for result in results]
        ['Swedish', 'Italian']

        Args:
            x: one sequence: float `(time, features)`, integer `(time,)` of token ids, `(time,)` of a signal, or text if
                the model has a vocabulary. Floats are sent as float32. An array may be of another library than NumPy, a
                data frame, whose columns are matched by name with the model's features, or a list. If the model has
                several sequence inputs, it is a mapping from the name of each to its values. Or many sequences of any
                lengths, in a list or from a generator, which are cut into requests as the client's `Batching` says.
            returns: `final` for the output after the last step, `steps` for the output after each step.
            decode: whether to decode outputs into labels, values or tokens. Without it the outputs of a single array
                are sent as bytes too.
            top: how many labels to list with their probability, 1 to 1000.
            heads: the names of further outputs to return, as on the model's card.
            static: the static inputs by name, if the model has any and no state is given; for a list one for all, or
                one each.
            state: a state token to continue from; for a list one for all, or one each.
            return_state: whether to return the state after the last step as a token.
            hidden: whether to return the state tensors after each step.
            timeout: seconds for the whole call, or a `Timeout`; None for the client's own. The server is told too.
            progress: for a list: True for a progress bar, or a function that is called with (done, total).

        Raises:
            TypeError: `x` is neither a sequence nor a list of them.
            ValueError: `state` or `static` is a list of another length than `x`, or the columns of a data frame do not
                fit the model.
            RequestError: a sequence is wrong. `where` names the place, such as `sequences[3][17][2]`.
            BadStateToken: a state token is broken, has expired, or is of another model.
            Unavailable: the server is overloaded or stopping.
            DeadlineExceeded, TimedOut: it took longer than `timeout`. Both are TimeoutErrors.
            ServerFailed: the model failed on this input.
        """
        options = PredictOptions(
            returns=returns,
            decode=decode,
            top=top,
            heads=heads,
            static=static,
            return_state=return_state,
            hidden=hidden,
            timeout=timeout,
        )
        deadline = self._sender.deadline(timeout)
        given = await read_sequences(self._sender, self._calls, x, deadline)
        if not isinstance(given, list):
            return await self._sender.send(self._calls.predict(given, cast(str | None, state), options), deadline)
        factories = self._calls.predict_many(given, state, options, self._sender.batching)
        with report_progress(progress, len(given)) as report:
            return await self._sender.send_all(factories, deadline, report)

    def session(
        self,
        *,
        ttl: float | None = None,
        static: StaticLike | None = None,
        state: str | None = None,
        keep: bool = False,
        timeout: Timeout | float | None = None,
    ) -> Opening[AsyncSession]:
        """A new session: the server keeps the state between steps.

        Args:
            ttl: seconds from its last step until it expires; None for the server's own.
            static: the static inputs by name, if the model has any and no state is given. The session keeps them.
            state: a state token to begin with.
            keep: whether the session stays after an `async with` block. If False, it is deleted there.
            timeout: seconds for the whole call, or a `Timeout`; None for the client's own.

        Raises:
            Unable: the model cannot run step by step (`not_streamable`).
            BadStateToken: the token is broken, has expired, or is of another model.
            Quota: there are as many sessions as this API key may have.
        """
        return Opening(open_session(self._sender, self._calls.create_session(state, ttl, timeout, static), keep))

    def stream(
        self,
        session: AsyncSession | str | None = None,
        *,
        returns: Returns = "final",
        decode: bool = True,
        top: int = 3,
        heads: Sequence[str] | None = None,
        ttl: float | None = None,
        static: StaticLike | None = None,
        keep: bool = False,
    ) -> AsyncStream:
        """A session over one open WebSocket, for many small steps. Needs the package websockets.

        Args:
            session: an existing session or its id; it stays at the end. None for a new session.
            returns: `final` for the output after the last step of each message, `steps` for the output after each step.
            decode: whether to decode outputs into labels, values or tokens.
            top: how many labels to list, 1 to 1000.
            heads: the names of further outputs to return, as on the model's card.
            ttl: for a new session: seconds from its last step until it expires; None for the server's own.
            static: for a new session: the static inputs by name, if the model has any.
            keep: whether a new session stays at the end. If False, it is deleted.

        Raises:
            ModuleNotFoundError: when the stream is entered, if websockets is not installed.
        """
        options = StepOptions(returns=returns, decode=decode, top=top, heads=heads)
        known = session._calls if isinstance(session, AsyncSession) else session
        protocol = StreamProtocol(self._calls, known, options, ttl, static)
        return AsyncStream(self._sender, protocol, keep or session is not None)

    @overload
    async def generate(
        self,
        prompt: Prompt | None = None,
        *,
        condition: str | None = None,
        max_steps: int = 100,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
        seed: int | None = None,
        samples: int = 1,
        stop: str | Sequence[str] | None = None,
        num_beams: int = 1,
        num_return_sequences: int = 1,
        length_penalty: float = 1.0,
        early_stopping: bool = False,
        logprobs: int | None = None,
        session: AsyncSession | str | None = None,
        state: str | None = None,
        static: StaticLike | None = None,
        return_state: bool = False,
        timeout: Timeout | float | None = None,
        stream: Literal[False] = False,
    ) -> Generation: ...

    @overload
    def generate(
        self,
        prompt: Prompt | None = None,
        *,
        condition: str | None = None,
        max_steps: int = 100,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
        seed: int | None = None,
        samples: int = 1,
        stop: str | Sequence[str] | None = None,
        num_beams: int = 1,
        num_return_sequences: int = 1,
        length_penalty: float = 1.0,
        early_stopping: bool = False,
        logprobs: int | None = None,
        session: AsyncSession | str | None = None,
        state: str | None = None,
        static: StaticLike | None = None,
        return_state: bool = False,
        timeout: Timeout | float | None = None,
        stream: Literal[True],
    ) -> AsyncTokens: ...

    def generate(
        self,
        prompt: Prompt | None = None,
        *,
        condition: str | None = None,
        max_steps: int = 100,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
        seed: int | None = None,
        samples: int = 1,
        stop: str | Sequence[str] | None = None,
        num_beams: int = 1,
        num_return_sequences: int = 1,
        length_penalty: float = 1.0,
        early_stopping: bool = False,
        logprobs: int | None = None,
        session: AsyncSession | str | None = None,
        state: str | None = None,
        static: StaticLike | None = None,
        return_state: bool = False,
        timeout: Timeout | float | None = None,
        stream: bool = False,
    ) -> Coroutine[Any, Any, Generation] | AsyncTokens:
        """Let the model continue a prompt, token by token. The same request with the same seed gives the same result.

        >>> generation = await client.model("names-lstm-generator").generate("Mc", samples=2, seed=7)
        >>> len(generation.texts), generation.seed
        (2, 7)

        Args:
            prompt: text or token ids `(time,)`; None to begin with the model's start token.
            condition: one of the conditions on the model's card.
            max_steps: most tokens to generate.
            temperature: 0 always takes the most likely token; a higher value makes unlikely tokens more frequent.
            top_k: draw only from the k most likely tokens; 0 for all.
            top_p: draw only from the most likely tokens that together have this probability, more than 0 and at most 1.
            seed: for the random numbers; None for one that the server draws. It is in the result.
            samples: how many texts to generate.
            stop: a string, or several, that ends a text.
            num_beams: search the most probable texts with this many beams, at most 64; 1 to draw samples.
            num_return_sequences: how many texts a beam search returns, at most `num_beams`.
            length_penalty: of a beam search: texts are ordered by `cumulative_logprob / length ** length_penalty`.
            early_stopping: of a beam search: whether it ends as soon as `num_beams` texts are complete.
            logprobs: how many of the most probable tokens to return for each step, 0 to 20, with the log-probability of
                the token itself; None for neither.
            session: a session, or its id, to continue from. The session itself does not move.
            state: continue from this state token.
            static: the static inputs by name, if the model has any and neither session nor state is given.
            return_state: whether to return the state at the end of each text as a token.
            timeout: seconds for the whole call, or a `Timeout`; None for the client's own. The server is told too.
            stream: whether to return the tokens one by one, as they are generated.

        Raises:
            Unable: the model cannot generate (`cannot_generate`); `detail` has the reason.
            RequestError: an option is out of range, or the prompt is wrong; `where` names it.
            DeadlineExceeded, TimedOut: it took longer than `timeout`. Both are TimeoutErrors.
        """
        options = GenerateOptions(
            condition=condition,
            max_steps=max_steps,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            seed=seed,
            samples=samples,
            stop=stop,
            num_beams=num_beams,
            num_return_sequences=num_return_sequences,
            length_penalty=length_penalty,
            early_stopping=early_stopping,
            logprobs=logprobs,
            session=id_of(session),
            state=state,
            static=static,
            return_state=return_state,
            timeout=timeout,
        )
        if stream:
            return AsyncTokens(self._sender, self._calls.generate_stream(prompt, options))
        return self._sender.send(self._calls.generate(prompt, options))

    @overload
    async def influence(
        self,
        x: SequenceLike,
        *,
        target: str | int | None = None,
        state: str | None = None,
        static: StaticLike | None = None,
        decode: bool = True,
        top: int = 3,
        timeout: Timeout | float | None = None,
    ) -> Influence: ...

    @overload
    async def influence(
        self,
        x: SequenceList[Any],
        *,
        target: str | int | None = None,
        state: str | Sequence[str] | None = None,
        static: StaticLike | Sequence[StaticLike] | None = None,
        decode: bool = True,
        top: int = 3,
        timeout: Timeout | float | None = None,
        progress: Progress = False,
    ) -> list[Influence]: ...

    @overload
    async def influence(
        self,
        x: object,
        *,
        target: str | int | None = None,
        state: str | Sequence[str] | None = None,
        static: StaticLike | Sequence[StaticLike] | None = None,
        decode: bool = True,
        top: int = 3,
        timeout: Timeout | float | None = None,
        progress: Progress = False,
    ) -> Influence | list[Influence]: ...

    async def influence(
        self,
        x: object,
        *,
        target: str | int | None = None,
        state: str | Sequence[str] | None = None,
        static: StaticLike | Sequence[StaticLike] | None = None,
        decode: bool = True,
        top: int = 3,
        timeout: Timeout | float | None = None,
        progress: Progress = False,
    ) -> Influence | list[Influence]:
        """How much each step of a sequence moves its last output. Each step is left out in turn.

        >>> influences = await client.model("names-gru").influence(["Lindqvist", "Rossi"], target="Italian")
        >>> [len(one.influence) for one in influences]
        [9, 5]

        Args:
            x: one sequence, or many in a list or from a generator, as `predict` takes them. Each is a request of its
                own; the client's `Batching` says how many are sent at the same time.
            target: the label, or the index of the output, to look at; None for the whole output.
            state: a state token to continue from; for a list one for all, or one each.
            static: the static inputs by name, if the model has any and no state is given; for a list one for all, or
                one each.
            decode: whether to decode the last output into labels, values or tokens.
            top: how many labels to list, 1 to 1000.
            timeout: seconds for the whole call, or a `Timeout`; None for the client's own. The server is told too.
            progress: for a list: True for a progress bar, or a function that is called with (done, total).

        Raises:
            TypeError: `x` is neither a sequence nor a list of them.
            ValueError: `state` or `static` is a list of another length than `x`, or the columns of a data frame do not
                fit the model.
            RequestError: a sequence is wrong or too long, or there is no such target; `where` names it, such as
                `sequences[3][17][2]`.
            Unable: the model cannot run step by step (`not_streamable`).
            DeadlineExceeded, TimedOut: it took longer than `timeout`. Both are TimeoutErrors.
        """
        options = InfluenceOptions(target=target, state=state, static=static, decode=decode, top=top, timeout=timeout)
        deadline = self._sender.deadline(timeout)
        given = await read_sequences(self._sender, self._calls, x, deadline)
        if not isinstance(given, list):
            return await self._sender.send(self._calls.influence(given, options), deadline)
        factories = self._calls.influence_many(given, options)
        with report_progress(progress, len(given)) as report:
            return await self._sender.send_all(factories, deadline, report)
