"""Finds stop strings in a text that grows, in constant time a character, whatever the strings are.

The automaton of Aho and Corasick, "Efficient string matching" (1975): it is in the state of the longest end of the text
that begins a stop string.
"""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field


@dataclass(slots=True)
class StopStrings:
    """Stop strings, none empty. State 0 is that of the empty text.

    Attributes:
        depths: for each state, the length of the end of the text that begins a stop string.
    """

    strings: tuple[str, ...]
    depths: list[int] = field(init=False)
    # For each state: the next states by character, the state of the next shorter end, the longest string found there.
    _next: list[dict[str, int]] = field(init=False)
    _shorter: list[int] = field(init=False)
    _found: list[int] = field(init=False)

    def __post_init__(self) -> None:
        self.depths, self._next, self._shorter, self._found = [0], [{}], [0], [0]
        for string in self.strings:
            self._add(string)
        waiting = deque(self._next[0].values())
        while waiting:  # a state after all states of shorter ends
            state = waiting.popleft()
            shorter = self._shorter[state]
            self._found[state] = self._found[state] or self._found[shorter]
            for character, following in self._next[state].items():
                self._shorter[following] = self._step(shorter, character)
                waiting.append(following)

    def read(self, state: int, piece: Iterable[str]) -> tuple[int, int | None]:
        """The state after more text, and where the first stop string in it begins.

        That is counted from the beginning of the piece, so it is below 0 where the string begins before. It is None if
        no stop string ends in the piece.
        """
        first = None
        for end, character in enumerate(piece, 1):
            state = self._step(state, character)
            length = self._found[state]
            if length and (first is None or end - length < first):
                first = end - length
        return state, first

    def _add(self, string: str) -> None:
        state = 0
        for depth, character in enumerate(string, 1):
            following = self._next[state].get(character)
            if following is None:
                following = self._next[state][character] = len(self._next)
                self._next.append({})
                self._shorter.append(0)
                self._found.append(0)
                self.depths.append(depth)
            state = following
        self._found[state] = len(string)

    def _step(self, state: int, character: str) -> int:
        while state and character not in self._next[state]:
            state = self._shorter[state]
        return self._next[state].get(character, 0)
