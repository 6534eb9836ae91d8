"""The load generator of gRPC: a closed loop of calls, or of the messages of streams. Run as `benchmarks.load` is."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import grpc

from benchmarks.load import Plan, Report, quantile
from benchmarks.processes import cpu_seconds

METHOD = "/inference.GRPCInferenceService/Model{}Infer"
# Each channel has a connection of its own, and answers of any size.
_OPTIONS = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", -1)]


@dataclass
class RPCPlan(Plan):
    """As `Plan`, for a closed loop.

    Attributes:
        requests: whole messages.
        stream: whether a connection has one stream, in which each message waits for the answer to the one before.
    """

    stream: bool = False

    def generator(self) -> "RPCGenerator":  # type: ignore[override]
        return RPCGenerator(self)


class RPCGenerator:
    """Runs one plan."""

    def __init__(self, plan: RPCPlan) -> None:
        self.plan = plan
        self.report = Report()
        self._measuring = self._stopping = False
        self._latencies: list[float] = []

    async def run(self) -> Report:
        plan, report = self.plan, self.report
        tasks = [asyncio.create_task(self._connection(first)) for first in range(plan.connections)]
        await asyncio.sleep(plan.warmup)
        began, report.server_cpu, report.generator_cpu = (
            time.perf_counter(),
            -cpu_seconds(plan.pids),
            -time.process_time(),
        )
        self._measuring = True
        await asyncio.sleep(plan.seconds)
        self._measuring, self._stopping = False, True
        report.seconds = time.perf_counter() - began
        report.server_cpu += cpu_seconds(plan.pids)
        report.generator_cpu += time.process_time()
        await asyncio.gather(*tasks)
        latencies = sorted(self._latencies)
        if latencies:
            report.p50, report.p90, report.p99 = (quantile(latencies, q) for q in (0.5, 0.9, 0.99))
            report.mean = sum(latencies) / len(latencies)
        return report

    async def _connection(self, index: int) -> None:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{self.plan.port}", _OPTIONS) as channel:
            if not self.plan.stream:
                await self._loop(index, channel.unary_unary(METHOD.format("")))
                return
            call = channel.stream_stream(METHOD.format("Stream"))()

            async def ask(message: bytes) -> object:
                await call.write(message)
                return await call.read()

            await self._loop(index, ask)
            await call.done_writing()

    async def _loop(self, index: int, ask: Callable[[bytes], Awaitable[object]]) -> None:
        plan, report = self.plan, self.report
        while not self._stopping:
            index = (index + 1) % len(plan.requests)
            began = time.perf_counter()
            await ask(plan.requests[index])
            if self._measuring:
                self._latencies.append(time.perf_counter() - began)
                report.num_done += 1
                report.num_steps += plan.sizes[index]
                report.statuses["200"] = report.num_done
