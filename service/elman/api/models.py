"""`GET /v1/models` and each model's card."""

from typing import Any

from fastapi import APIRouter

from elman.api.schemas import (
    BatchingCard,
    CoverageCard,
    Examples,
    ForecastCard,
    GenerationCard,
    InputCard,
    InputTensorCard,
    ModelCard,
    ModelList,
    OutputCard,
    OutputTensorCard,
    RefusedModel,
    StateCard,
    StateTensorCard,
)
from elman.api.server import ServedModel, Server
from elman.http.roles import needs
from elman.repository.feeding import driving_of, why_no_forecast, why_no_generation
from elman.repository.model import Model
from elman.repository.network import InputTensor, OutputTensor
from elman.repository.repository import Refusal
from elman.repository.spec import ErrorsSpec, ForecastSpec, GenerationSpec


def models_router(server: Server) -> APIRouter:
    """The routes that list models and show one."""
    router = APIRouter(prefix="/v1/models", tags=["models"])

    @router.get("")
    @needs("key")
    async def list_models() -> ModelList:
        """Every model that is served, at its default version, and every file that was refused."""
        return ModelList(
            models=[card(server, one) for one in server.defaults()],
            refused=[_refused(refusal) for refusal in server.refusals],
        )

    @router.get("/{name}")
    @needs("key")
    async def show_model(name: str) -> ModelCard:
        """The card of a model at its default version."""
        return card(server, server.served(name))

    @router.get("/{name}/versions/{version}")
    @needs("key")
    async def show_version(name: str, version: str) -> ModelCard:
        """The card of one version of a model."""
        return card(server, server.served(name, version))

    @router.get("/{name}/examples")
    @needs("key")
    async def show_examples(name: str) -> Examples:
        """Sequences that the model was not trained on, if its folder has any."""
        return Examples.model_validate({"examples": server.examples(server.served(name))})

    @router.get("/{name}/versions/{version}/examples")
    @needs("key")
    async def show_version_examples(name: str, version: str) -> Examples:
        """Sequences that one version of a model was not trained on, if its folder has any."""
        return Examples.model_validate({"examples": server.examples(server.served(name, version))})

    return router


def card(server: Server, served: ServedModel) -> ModelCard:
    """A model's card."""
    model = served.model
    network, proof, spec = model.network, model.proof, model.spec
    labels = spec.decoder.labels if spec.decoder else None
    return ModelCard(
        name=model.name,
        version=model.version,
        versions=server.versions(model.name),
        task=spec.task or "raw",
        cell=network.cell,
        layers=network.layers,
        hidden_size=network.hidden_size,
        direction="forward" if network.forward else "bidirectional",
        streaming=model.sessions,
        input=InputCard(
            kind=spec.input.kind or "features",
            size=network.features,
            stride=(spec.input.stride or spec.input.size) if model.frames else None,
            left_pad=spec.input.left_pad if model.frames else None,
            names=list(spec.input.names) if spec.input.names else None,
            vocabulary_size=spec.input.vocabulary_size,
            text=spec.input.vocabulary is not None,
            normalisation=served.format.normalisation,
            unknown=spec.input.unknown,
            scale=spec.input.scale,
            missing=spec.input.missing,
            missing_mask=spec.input.missing_mask,
        ),
        output=OutputCard(size=network.output_size, labels=list(labels) if labels else None),
        window=network.window,
        inputs=[InputTensorCard(**_tensor(one)) for one in network.inputs],
        outputs=[OutputTensorCard(**_tensor(one)) for one in network.answers],
        state=_state(model),
        batching=BatchingCard(exact=proof.exact, tolerance=proof.tolerance, reason=proof.reason),
        generation=_generation(model),
        forecast=_forecast(model),
        suspended=None if (suspension := served.queue.suspension()) is None else suspension.detail,
        examples=len(server.examples(served)),
        notes=[] if model.triton is None else list(model.triton.notes),
        digest=model.digest,
    )


def _generation(model: Model) -> GenerationCard | None:
    if why_no_generation(model) is not None:
        return None
    spec = model.spec.generation or GenerationSpec()
    return GenerationCard(start=spec.start, end=spec.end, conditions=list(spec.conditions))


def _forecast(model: Model) -> ForecastCard | None:
    if why_no_forecast(model) is not None:
        return None
    driving, spec = driving_of(model), model.spec.forecast or ForecastSpec()
    return ForecastCard(
        drive=driving.drive,
        window=driving.window,
        max_horizon=driving.horizon if driving.drive == "direct" else None,
        target=list(driving.target),
        known=list(driving.known),
        future=spec.future,
        known_for=driving.known_for,
        sampled=spec.sampled,
        max_sampled=None if spec.errors is None else spec.errors.steps,
        coverage=_coverage(spec.errors),
    )


def _coverage(errors: ErrorsSpec | None) -> CoverageCard | None:
    if errors is None or not errors.coverage:
        return None
    return CoverageCard(level=errors.level, shares=[list(step) for step in errors.coverage])


def _tensor(one: InputTensor | OutputTensor) -> dict[str, Any]:
    return {
        "name": one.name,
        "role": one.role,
        "shape": list(one.shape),
        "dtype": one.dtype.name,
        "found": one.found,
    }


def _state(model: Model) -> StateCard:
    states = model.network.states
    return StateCard(
        bytes=model.network.state_nbytes,
        tensors=[StateTensorCard(name=s.name, shape=list(s.row_shape), dtype=s.dtype.name) for s in states],
        initial=model.spec.initial_state,
    )


def _refused(refusal: Refusal) -> RefusedModel:
    reason = refusal.reason
    return RefusedModel(
        name=refusal.name,
        version=refusal.version,
        reason=reason.reason,
        node=reason.node,
        remedy=reason.remedy,
        model_json=reason.template or None,
    )
