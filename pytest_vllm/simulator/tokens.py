"""The tokenizer: words and pieces of the shipped text, and every byte for all the rest."""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

END_OF_TEXT, TURN_START, TURN_END = 0, 1, 2
SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<tool_call>", "</tool_call>")
VOCABULARY_SIZE = 4096

_SPLIT_SPECIALS = re.compile(f"({'|'.join(re.escape(text) for text in SPECIALS)})")
_WORDS = re.compile(r" ?[A-Za-z]+| ?[0-9]|\n+| ?[^\sA-Za-z0-9]+| +(?! )| +|\s")
_PIECE_LENGTHS = range(2, 7)
_CACHED_WORDS = 50_000


class Tokenizer:
    """Turns text into token IDs and back without loss.

    IDs begin with the special tokens, then the 256 bytes, then words and pieces of the text.
    Characters beyond ASCII are always spelled in bytes, so that they span several tokens.

    Args:
        text: Text that the vocabulary is made of.
    """

    def __init__(self, text: str) -> None:
        words = Counter(word for word in _WORDS.findall(text) if word.isascii())
        entries = [bytes([value]) for value in range(256)]
        known = set(entries)
        for word, _ in sorted(words.items(), key=lambda item: (-item[1], item[0])):
            self._add(word.encode(), entries, known)
        pieces: Counter[str] = Counter()
        for word in words:
            bare = word.strip()
            for length in _PIECE_LENGTHS:
                for start in range(len(bare) - length + 1):
                    pieces[bare[start : start + length]] += length - 1
                if word.startswith(" "):
                    pieces[word[: length + 1]] += length
        for piece, _ in sorted(pieces.items(), key=lambda item: (-item[1], item[0])):
            self._add(piece.encode(), entries, known)
        self.pieces: tuple[bytes, ...] = tuple(text.encode() for text in SPECIALS) + tuple(entries)
        first = len(SPECIALS)
        self._ids = {piece: first + index for index, piece in enumerate(entries)}
        self._longest = max(map(len, entries))
        self._words: dict[str, tuple[int, ...]] = {}

    def _add(self, piece: bytes, entries: list[bytes], known: set[bytes]) -> None:
        if piece not in known and len(entries) < VOCABULARY_SIZE - len(SPECIALS):
            known.add(piece)
            entries.append(piece)

    @property
    def size(self) -> int:
        """Number of token IDs."""
        return len(self.pieces)

    def is_special(self, token: int) -> bool:
        """Tell whether a token frames text instead of being text."""
        return token <= TURN_END

    def encode(self, text: str) -> list[int]:
        """Return the IDs of a text.

        Raises:
            UnicodeEncodeError: The text has a lone surrogate.
        """
        ids: list[int] = []
        if "<" not in text:
            self._encode_plain(text, ids)
            return ids
        for part in _SPLIT_SPECIALS.split(text):
            if part in SPECIALS:
                ids.append(SPECIALS.index(part))
            else:
                self._encode_plain(part, ids)
        return ids

    def decode(self, ids: Iterable[int], *, specials: bool = True) -> str:
        """Return the text of IDs; unknown ones are nothing, broken characters U+FFFD."""
        return self.decode_bytes(ids, specials=specials).decode("utf-8", "replace")

    def decode_bytes(self, ids: Iterable[int], *, specials: bool = True) -> bytes:
        """Return the bytes that IDs spell."""
        pieces, size = self.pieces, self.size
        return b"".join(
            pieces[token] for token in ids if token < size and (specials or token > TURN_END)
        )

    def token_string(self, token: int) -> str:
        """Return a token as a byte-level vocabulary writes it: a blank is `Ġ`, a line end `Ċ`."""
        return "".join(_BYTE_LETTERS[value] for value in self.pieces[token])

    def _encode_plain(self, text: str, ids: list[int]) -> None:
        words = self._words
        for word in _WORDS.findall(text):
            found = words.get(word)
            if found is None:
                found = self._encode_word(word)
                if len(words) < _CACHED_WORDS:
                    words[word] = found
            ids.extend(found)

    def _encode_word(self, word: str) -> tuple[int, ...]:
        data, ids, at = word.encode(), [], 0
        while at < len(data):
            end = min(len(data), at + self._longest)
            while data[at:end] not in self._ids:
                end -= 1
            ids.append(self._ids[data[at:end]])
            at = end
        return tuple(ids)


def _byte_letters() -> Sequence[str]:
    """Give each byte a printable letter, as GPT-2's vocabulary does."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = {value: chr(value) for value in shown}
    others = (value for value in range(256) if value not in letters)
    letters |= {value: chr(256 + index) for index, value in enumerate(others)}
    return [letters[value] for value in range(256)]


_BYTE_LETTERS = _byte_letters()
