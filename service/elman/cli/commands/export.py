"""`elman export`."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from elman.cli.commands.options import AsJSON


class Reads(StrEnum):
    """The units that a module reads."""

    data, scaled, series = "data", "scaled", "series"


class Normalisation(StrEnum):
    """The form of the texts that a vocabulary was made of."""

    NFC, none = "NFC", "none"


def export(
    source: Annotated[
        str,
        typer.Argument(
            metavar="MODULE:ATTR",
            help="A torch module: an importable name or a file.py, and in it the name of an nn.Module, "
            "or of a callable that returns one.",
        ),
    ],
    path: Annotated[
        Path,
        typer.Argument(help="What to write: a file .onnx, or a model's folder, for 1/model.onnx in it."),
    ],
    example_shape: Annotated[
        str,
        typer.Option(metavar="SIZES", help="Sizes of an example input: batch,time,features; batch,time for tokens."),
    ],
    tokens: Annotated[
        int | None, typer.Option(min=2, help="The input is token ids below this.", show_default=False)
    ] = None,
    state_shape: Annotated[
        list[str] | None,
        typer.Option(metavar="SIZES", help="Sizes of a state that forward takes and returns: layers,batch,hidden."),
    ] = None,
    inputs: Annotated[
        list[str] | None,
        typer.Option(
            "--input",
            metavar="NAME=SIZES[:KIND]",
            help="A further argument of forward. KIND is float, lengths, mask, or the number of ids that it may take.",
        ),
    ] = None,
    roles: Annotated[
        list[str] | None,
        typer.Option("--role", metavar="NAME=ROLE", help="What a further argument is, where its shape leaves it open."),
    ] = None,
    weights: Annotated[Path | None, typer.Option(help="A state_dict to load, as torch.save writes it.")] = None,
    task: Annotated[
        str | None, typer.Option(help="classification, tagging, regression, forecasting, generation or raw.")
    ] = None,
    labels: Annotated[str | None, typer.Option(help="One for each score: a,b,c; or @FILE, one per line.")] = None,
    vocabulary: Annotated[
        str | None, typer.Option(help="A token for each id: @FILE, one per line; or a text of characters.")
    ] = None,
    unknown: Annotated[str | None, typer.Option(help="The token that stands for all others.")] = None,
    normalisation: Annotated[
        Normalisation | None,
        typer.Option(
            help="The Unicode form that texts are brought into. [default: NFC if it changes no token]",
        ),
    ] = None,
    feature_names: Annotated[str | None, typer.Option(help="Names of the input's features: a,b,c; or @FILE.")] = None,
    mean: Annotated[str | None, typer.Option(help="Output values are output * std + mean. Numbers: 1,2.")] = None,
    std: Annotated[str | None, typer.Option(help="As --mean.")] = None,
    reads: Annotated[
        Reads | None,
        typer.Option(help="Of a forecaster with --mean: whether the module takes the data's units or scaled values."),
    ] = None,
    input_mean: Annotated[
        str | None, typer.Option(help="The module reads (x - mean) / std. One number for each feature: 1,2.")
    ] = None,
    input_std: Annotated[str | None, typer.Option(help="As --input-mean.")] = None,
    spec: Annotated[Path | None, typer.Option(help="A model.json with further fields of the spec.")] = None,
    tolerance: Annotated[float | None, typer.Option(help="Largest allowed difference from torch.")] = None,
    quantise: Annotated[bool, typer.Option("--quantise", help="Recurrent layers in 8 bits: smaller, near.")] = False,
    quantise_dynamic: Annotated[
        bool,
        typer.Option("--quantise-dynamic", help="ONNX Runtime's own 8 bits of LSTM layers: not exact, not batched."),
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a file that exists.")] = False,
    as_json: AsJSON = False,
) -> None:
    """Export a torch module to one ONNX file that the server takes as it is. The module's code is run.

    \b
    elman export net.py:model my-models/tagger --example-shape 1,10,12 --labels up,down
    elman export package.net:build tagger.onnx --example-shape 1,10,12 --weights best.pt
    elman export net.py:model my-models/names --example-shape 1,8 --tokens 60 --vocabulary @letters.txt
    elman export net.py:model my-models/load --example-shape 1,48,3 --input profile=1,4 --input station=1:12

    The file is written only if ONNX Runtime gives the same answers as torch, also for other batch sizes and lengths
    than the example's. Then elman check PATH says how it will be served.
    """
    from elman.cli.jobs.torch_export import export_module

    export_module(
        source,
        path,
        example_shape=example_shape,
        tokens=tokens,
        state_shapes=state_shape or [],
        inputs=inputs or [],
        roles=roles or [],
        weights=weights,
        task=task,
        labels=labels,
        vocabulary=vocabulary,
        unknown=unknown,
        normalisation=None if normalisation is None else normalisation.value,
        feature_names=feature_names,
        reads=None if reads is None else reads.value,
        input_mean=input_mean,
        input_std=input_std,
        mean=mean,
        std=std,
        spec=spec,
        tolerance=tolerance,
        quantise=quantise,
        quantise_dynamic=quantise_dynamic,
        overwrite=overwrite,
        as_json=as_json,
    )
