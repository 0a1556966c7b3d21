"""Text out of tokens as they come: whole characters only, and nothing of a stop text."""

from __future__ import annotations

import codecs
from typing import TYPE_CHECKING

from pytest_vllm.simulator.tokens import TURN_END

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_vllm.simulator.tokens import Tokenizer


class TokenText:
    """Text of each token at its place: the last byte of a character carries all of it."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._pieces = tokenizer.pieces
        self._pending = b""

    def of(self, token: int) -> str:
        """Return what a token would show here, empty when it leaves a character unfinished."""
        data = self._pending + self._pieces[token]
        try:
            return data.decode()
        except UnicodeDecodeError as error:
            if error.reason == "unexpected end of data":
                return data[: error.start].decode("utf-8", "replace")
            return data.decode("utf-8", "replace") if not self._pending else "\ufffd"

    def take(self, token: int) -> str:
        """Return what a token shows here and go on behind it."""
        shown = self.of(token)
        data = self._pending + self._pieces[token]
        try:
            data.decode()
            self._pending = b""
        except UnicodeDecodeError as error:
            unfinished = error.reason == "unexpected end of data"
            self._pending = data[error.start :] if unfinished else b""
        return shown


class Detokenizer:
    """The text of one sequence, told piece by piece.

    Args:
        tokenizer: Tokenizer of the model.
        stop: Texts that end the sequence.
        include_stop: Whether the stop text stays.
        skip_specials: Whether special tokens are left out.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        stop: Sequence[str] = (),
        *,
        include_stop: bool = False,
        skip_specials: bool = True,
    ) -> None:
        self._pieces = tokenizer.pieces
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._stop = tuple(stop)
        self._include_stop = include_stop
        self._skip_specials = skip_specials
        self._held = 0 if include_stop else max((len(text) - 1 for text in stop), default=0)
        self._told = 0
        self.text = ""

    def add(self, token: int) -> str | None:
        """Take one token; return the stop text that it completed, if any."""
        if token <= TURN_END and self._skip_specials:
            return None
        new = self._decoder.decode(self._pieces[token])
        before = len(self.text)
        self.text += new
        if not self._stop or not new:
            return None
        found: tuple[int, str] | None = None
        for stop in self._stop:
            at = self.text.find(stop, max(0, before - len(stop) + 1))
            if at >= 0 and (found is None or at < found[0]):
                found = (at, stop)
        if found is None:
            return None
        at, stop = found
        self.text = self.text[: at + len(stop)] if self._include_stop else self.text[:at]
        return stop

    def tell(self, *, finished: bool) -> str:
        """Return the text that has not been told, but what may be the beginning of a stop."""
        end = len(self.text) if finished else len(self.text) - self._held
        if end <= self._told:
            return ""
        piece = self.text[self._told : end]
        self._told = end
        return piece
