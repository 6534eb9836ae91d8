"""Recurrent models of Keras 3, by its own exporter, which is tf2onnx: `python keras_models.py FOLDER`."""

import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import keras
import numpy as np
from keras import Input, Model, Sequential, layers
from keras.layers import GRU, LSTM, Dense, Embedding, SimpleRNN
from writing import Row, version_folder, write_rows

FEATURES, HIDDEN, WINDOW, TOKENS = 3, 8, 10, 20
LENGTHS = (10, 3, 25)

Build = Callable[[], Model]


def stack(time: int | None, *inner: keras.layers.Layer) -> Build:
    return lambda: Sequential([Input((time, FEATURES)), *inner, Dense(2)])


def ids(*inner: keras.layers.Layer, dtype: str = "int32") -> Build:
    return lambda: Sequential([Input((None,), dtype=dtype), *inner, Dense(2)])


def each(kind: type[keras.layers.Layer], **options: object) -> keras.layers.Layer:
    """A layer that answers each step."""
    return kind(HIDDEN, return_sequences=True, **options)


def sequence_and_static() -> tuple[keras.KerasTensor, keras.KerasTensor]:
    return Input((None, FEATURES), name="sequence"), Input((2,), name="static")


def two_inputs() -> Model:
    sequence, static = sequence_and_static()
    return Model([sequence, static], Dense(2)(layers.Concatenate()([LSTM(HIDDEN)(sequence), static])))


def starts_from_static() -> Model:
    """As a captioner of pictures: a vector becomes the first state."""
    sequence, static = sequence_and_static()
    return Model([sequence, static], Dense(2)(each(LSTM)(sequence, initial_state=[Dense(HIDDEN)(static)] * 2)))


def two_sequences() -> Model:
    words, tags = Input((None,), dtype="int32", name="words"), Input((None,), dtype="int32", name="tags")
    joined = layers.Concatenate()([Embedding(TOKENS, 4)(words), Embedding(5, 2)(tags)])
    return Model([words, tags], Dense(2)(layers.Bidirectional(each(LSTM))(joined)))


def two_heads() -> Model:
    sequence = Input((None, FEATURES), name="sequence")
    shared = each(LSTM)(sequence)
    return Model(sequence, [Dense(2, name="steps")(shared), Dense(3, name="whole")(LSTM(4)(shared))])


def self_attention() -> Model:
    sequence = Input((None, FEATURES))
    shared = each(LSTM)(sequence)
    return Model(sequence, Dense(2)(layers.Attention()([shared, shared])))


def autoencoder() -> Model:
    inner = [LSTM(HIDDEN), layers.RepeatVector(WINDOW), each(LSTM), Dense(FEATURES)]
    return Sequential([Input((WINDOW, FEATURES)), *inner])


MODELS: dict[str, Build] = {
    "lstm_steps": stack(None, each(LSTM)),
    "lstm_final": stack(None, LSTM(HIDDEN)),
    "lstm_stack": stack(None, each(LSTM), layers.Dropout(0.3), LSTM(HIDDEN, activation="relu")),
    "lstm_window": stack(WINDOW, LSTM(HIDDEN)),
    "lstm_unrolled": stack(WINDOW, LSTM(HIDDEN, unroll=True)),
    "lstm_backwards": stack(None, LSTM(HIDDEN, go_backwards=True)),
    "gru_steps": stack(None, each(GRU)),
    "gru_final": stack(None, GRU(HIDDEN)),
    "gru_reset_before": stack(None, GRU(HIDDEN, reset_after=False)),
    "gru_window": stack(WINDOW, each(GRU)),
    "rnn_steps": stack(None, each(SimpleRNN)),
    "rnn_window": stack(WINDOW, SimpleRNN(HIDDEN)),
    "bidirectional_steps": stack(None, layers.Bidirectional(each(LSTM))),
    "bidirectional_final": stack(None, layers.Bidirectional(LSTM(HIDDEN))),
    "bidirectional_gru": stack(None, layers.Bidirectional(each(GRU))),
    "time_distributed": stack(None, layers.TimeDistributed(Dense(4)), each(LSTM)),
    "masking": stack(None, layers.Masking(), LSTM(HIDDEN)),
    "masking_window": stack(WINDOW, layers.Masking(), LSTM(HIDDEN)),
    "mask_zero": ids(Embedding(TOKENS, 4, mask_zero=True), LSTM(HIDDEN)),
    "embedding": ids(Embedding(TOKENS, 4), LSTM(HIDDEN)),
    "embedding_of_floats": ids(Embedding(TOKENS, 4), each(LSTM), dtype="float32"),
    "flatten_head": stack(WINDOW, each(LSTM), layers.Flatten()),
    "convolution": stack(None, layers.Conv1D(4, 3, padding="causal"), each(LSTM)),
    "mean_pooled": stack(None, each(LSTM), layers.GlobalAveragePooling1D()),
    "self_attention": self_attention,
    "autoencoder": autoencoder,
    "two_inputs": two_inputs,
    "two_sequences": two_sequences,
    "two_heads": two_heads,
    "starts_from_static": starts_from_static,
}  # fmt: skip


def rows_for(model: Model) -> list[Row]:
    rng = np.random.default_rng(0)
    rows = []
    for length in LENGTHS:
        row = {}
        for one in model.inputs:
            shape = [1, *(length if extent is None else extent for extent in one.shape[1:])]
            tokens = len(shape) == 2 and one.shape[1] is None
            values = rng.integers(1, 5, shape) if tokens else rng.standard_normal(shape)
            row[one.name] = values.astype(one.dtype)
        answers = model.predict(row if len(row) > 1 else next(iter(row.values())), verbose=0)
        answers = answers if isinstance(answers, list) else [answers]
        rows.append(row | {f"answer {at}": answer for at, answer in enumerate(answers)})
    return rows


if __name__ == "__main__":
    logging.disable(logging.WARNING)
    for name, build in MODELS.items():
        keras.utils.set_random_seed(1)
        model = build()
        version = version_folder(Path(sys.argv[1]), name)
        write_rows(Path(sys.argv[1]), name, rows_for(model))
        # After the answers: Keras exports only a model that was called.
        model.export(str(version / "model.onnx"), format="onnx", verbose=False)
