"""What the names in a graph say: of an axis, a length, a mask, a state."""

import re

_BATCH = re.compile(r"(?i)(n|b|bs|bsz|batch.*|.*batch(_?size)?)(_\d+)?")
_TIME = re.compile(r"(?i)(t|time.*|.*time|.*steps?|seq.*|.*seq(uence)?|.*len(gth)?s?|.*frames?|samples)(_\d+)?")
_LENGTHS = re.compile(r"(?i)(.*[_.])?(n_?)?(seq(uence)?_?|src_?|x_?|input_?)?(lens?|lengths?|steps)(_?(in|input|0))?")
_MASK = re.compile(r"(?i)mask|valid|padding")

# A word at either end of a name that says at which end of a run the tensor stands.
_BEFORE = "input in initial init prev previous past last curr current old".split()
_AFTER = "output out final next new present updated".split()
_COUNTED = "0 1 n t".split()  # h0 and hn, h_t and h
_STATES = set(
    "h c s hx cx hs cs hidden hid cell state states memory mem recurrent rnn lstm gru cache carry buffer ctx".split()
)


def names_batch(dim: object) -> bool:
    """Whether an axis is named as one of rows."""
    return isinstance(dim, str) and _BATCH.fullmatch(dim) is not None


def names_time(dim: object) -> bool:
    """Whether an axis is named as one of steps."""
    return isinstance(dim, str) and _TIME.fullmatch(dim) is not None and not names_batch(dim)


def names_lengths(name: str) -> bool:
    """Whether an input is named as the number of steps of each row."""
    return _LENGTHS.fullmatch(_base(name)) is not None


def names_mask(name: str) -> bool:
    """Whether an input is named as a mask."""
    return _MASK.search(_base(name)) is not None


def names_state(name: str) -> bool:
    """Whether a name is that of a recurrent state: `h_in`, `state`, `lstm_cell_0`."""
    return any(word in _STATES for word in _words(name))


def stem(name: str, *, loose: bool = False) -> str:
    """A name without the words that say before or after: `h` of `h_in`, `h_out` and `new_h`; loosely of `h0`, `hn`."""
    words = _words(name)
    ends = {*_BEFORE, *_AFTER, *(_COUNTED if loose else ())}
    if loose and words and words[-1].endswith("n") and words[-1][:-1] in _STATES:
        words[-1:] = [words[-1][:-1], "n"]
    while len(words) > 1 and words[-1] in ends:
        words.pop()
    while len(words) > 1 and words[0] in ends - set(_COUNTED):
        words.pop(0)
    return "_".join(words)


def names_after(name: str) -> bool:
    """Whether a name says that the tensor comes out of a run: `h_out`, `new_state`, `stateN`."""
    words = _words(name)
    return len(words) > 1 and (words[-1] in {*_AFTER, "n"} or words[0] in _AFTER)


def _base(name: str) -> str:
    return name.split("/")[-1].split(":")[0]


def _words(name: str) -> list[str]:
    """The words of a name in lower case, digits apart."""
    spaced = re.sub(r"([a-z])([A-Z])", r"\1_\2", _base(name))
    return [word for word in re.split(r"[^a-z0-9]+|(?<=[a-z])(?=[0-9])|(?<=[0-9])(?=[a-z])", spaced.lower()) if word]
