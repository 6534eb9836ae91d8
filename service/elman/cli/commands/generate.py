"""`elman generate`."""

from typing import Annotated, Any

import typer

from elman.cli.commands.options import DEFAULT_URL, AsJSON, Key, Model, Static, Timeout, Url, static_values
from elman.cli.exits import refuse


def generate(
    model: Model,
    prompt: Annotated[str, typer.Argument(help="The text to continue.")] = "",
    condition: Annotated[
        str | None,
        typer.Option("--condition", "-c", help="One of the conditions on the model's card, e.g. a language."),
    ] = None,
    static: Static = None,
    max_steps: Annotated[int, typer.Option(min=1, max=1_000_000, help="Most tokens to generate.")] = 100,
    temperature: Annotated[
        float, typer.Option("--temperature", "-t", min=0.0, max=100.0, help="0 always takes the most likely token.")
    ] = 1.0,
    top_k: Annotated[
        int, typer.Option(min=0, max=2**31, help="Sample from this many most likely tokens; 0 is all.")
    ] = 0,
    top_p: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Sample from the most likely tokens that sum to this.")
    ] = 1.0,
    seed: Annotated[int | None, typer.Option(min=0, max=2**63 - 1, help="The same seed gives the same text.")] = None,
    samples: Annotated[int, typer.Option("--samples", "-n", min=1, max=1000, help="Number of texts.")] = 1,
    stop: Annotated[list[str] | None, typer.Option(help="Stop at this text. May be given several times.")] = None,
    num_beams: Annotated[
        int, typer.Option(min=1, max=64, help="Search the most likely texts with this many beams; 1 draws samples.")
    ] = 1,
    num_return_sequences: Annotated[
        int, typer.Option(min=1, max=64, help="Number of texts of a beam search, best first.")
    ] = 1,
    length_penalty: Annotated[
        float, typer.Option(min=-10.0, max=10.0, help="Of beams: above 0 favours long texts.")
    ] = 1.0,
    early_stopping: Annotated[
        bool, typer.Option("--early-stopping", help="Of beams: end as soon as --num-beams texts are complete.")
    ] = False,
    logprobs: Annotated[
        int | None,
        typer.Option(
            min=0, max=20, help="With --json: the log-probability of each token, and of the most likely ones."
        ),
    ] = None,
    stream: Annotated[bool, typer.Option("--stream", help="Print each token as soon as it is there.")] = False,
    url: Url = DEFAULT_URL,
    api_key: Key = None,
    timeout: Timeout = 300.0,
    as_json: AsJSON = False,
) -> None:
    """Generate text from a prompt. Each line is one text, with its prompt.

    \b
    elman generate names-lstm-generator Mc --stream
    elman generate names-lstm-generator --condition Italian --samples 10 --temperature 0.7
    elman generate ./my-model "Once" --max-steps 300 --seed 1 --json
    elman generate ./my-model "Once" --static style=2
    elman generate names-lstm-generator Mc --num-beams 8 --num-return-sequences 3

    Without --seed the server draws one. It is in the answer of --json, and gives the same text again. With --json
    and --stream each event is one line, and the last line is the whole answer.
    """
    from elman.cli.jobs.generation import generate_text
    from elman.cli.jobs.signals import Interrupted, run_interruptible

    if stream and samples > 1 and not as_json:
        raise refuse("--stream prints one text: leave out --samples, or add --json")
    if logprobs is not None and not as_json:
        raise refuse("--logprobs are in the answer of --json: add it")
    body: dict[str, Any] = {
        "prompt": prompt or None,
        "condition": condition,
        "static": static_values(static) or None,
        "seed": seed,
        "max_steps": max_steps,
        "temperature": temperature,
        "top_k": top_k,
        "top_p": top_p,
        "samples": samples,
        "stop": stop or [],
        "num_beams": num_beams,
        "num_return_sequences": num_return_sequences,
        "length_penalty": length_penalty,
        "early_stopping": early_stopping,
        "logprobs": logprobs,
        "stream": stream,
    }
    given = {name: value for name, value in body.items() if value is not None}
    try:
        run_interruptible(generate_text(model, url, api_key, timeout, given, as_json))
    except Interrupted as interrupted:
        raise typer.Exit(interrupted.code) from None
