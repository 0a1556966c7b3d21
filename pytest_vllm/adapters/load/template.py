"""Recognise an event by its bytes, so that it need not be parsed.

Events of a model differ in little: the text, perhaps the token IDs, and by request the `id`
and the time. What `json` once said of an event holds for every event of the same bytes, and an
`id` or `created` at its very start has no say in what an event is. So an event is cut into

    head (id, object, created) | before | hole | after

where `before` and `after` are those of a shape that was seen, and the hole is looked up among
those that were parsed with that shape. What is not found is parsed. Where to cut is a guess that
decides how often something is found, never what is found.

One hole more is known without having been parsed: where the shape was cut out of an event in which
the hole was all of one JSON string, any other plain text in its place makes the same event with
another text (`is_plain`). So what is parsed does not grow with a model's vocabulary.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_vllm.adapters.load.events import TokenEvents

SIZES = {digits.encode(): size for size in range(1, 2048) for digits in {f"{size:x}", f"{size:X}"}}
"""Sizes of usual chunks as they are written."""

_FIELD = b"data: "
_END = b"\n\n\r\n"  # of the event, and of its chunk
# Plain values only, so that any such head makes the same JSON of what follows.
_HEAD = re.compile(
    rb'\{"id":"[\w.:-]*",'
    rb'(?:"object":"(?:chat\.completion\.chunk|text_completion)",)?'
    rb'(?:"created":(?:0|[1-9]\d{0,14}),)?(?=")'
)
_OPENED = re.compile(
    rb'"(?:text|content|reasoning|reasoning_content|arguments)"\s*:\s*"(?!")', re.ASCII
)
_CLOSED = re.compile(rb'(?:[^"\\]|\\.)*')
_IDS = re.compile(rb'"token_ids"\s*:\s*\[[\d, ]+')
_PLAIN = re.compile(rb"[ !#-\[\]-~]+")  # of a JSON string: ASCII without quote and backslash
is_plain = _PLAIN.fullmatch
_SHAPES = 16
_HOLES = 100_000
_HOLE_BYTES = 256
_AT_ONCE = 8192  # bytes that are parted at a time


class _Shape:
    __slots__ = ("after", "before", "reasoned", "settled", "texts")

    def __init__(self, before: bytes, after: bytes) -> None:
        self.before, self.after = before, after
        self.texts: bool | None = None  # whether any plain hole means the same and tells no tokens
        self.settled: dict[bytes, int] = {}  # tokens by hole, for content once content came
        self.reasoned: dict[bytes, int] = {}  # for reasoning before any content


class Templates:
    """The shapes that events of one server have, shared by all its replies."""

    def __init__(self) -> None:
        self._shapes: list[_Shape] = []
        self._holes = 0

    def adopt(self, stream: TokenEvents, payload: bytes, tokens: int) -> None:
        """Keep what a token event looks like that was parsed, and expect more of them.

        Args:
            stream: The reply that it came in.
            payload: Its JSON text, on one line. It says that something was written and no more.
            tokens: How many tokens it carries.
        """
        head = _HEAD.match(payload)
        cut = head.end() if head else 0
        shape = self._find(payload, cut)
        if shape is None:
            return
        start = _FIELD + payload[:cut] + shape.before
        after = shape.after + _END
        if start != stream.start or after != stream.after:
            stream.start, stream.after, stream.heads = start, after, {}
        if shape.texts is None:  # by the very event that it was cut out of
            shape.texts = tokens == 0 and shape.after.startswith(b'"')
        stream.texts = shape.texts
        stream.known = known = shape.settled if stream.settled else shape.reasoned
        hole = payload[cut + len(shape.before) : len(payload) - len(shape.after)]
        if self._holes < _HOLES and len(hole) < _HOLE_BYTES:
            self._holes += 1
            known[hole] = tokens

    def _find(self, payload: bytes, cut: int) -> _Shape | None:
        for shape in self._shapes:
            if (
                payload.startswith(shape.before, cut)
                and payload.endswith(shape.after)
                and len(payload) - cut >= len(shape.before) + len(shape.after)
            ):
                return shape
        opened = _OPENED.search(payload, cut)
        if opened is None or len(self._shapes) >= _SHAPES:
            return None
        closed = _CLOSED.match(payload, opened.end())
        end = closed.end() if closed else len(payload)
        ids = _IDS.search(payload, end)
        if ids is not None:
            end = ids.end()
        shape = _Shape(payload[cut : opened.end()], payload[end:])
        self._shapes.append(shape)
        return shape


def head_of(stream: TokenEvents, length: int) -> bytes:
    """Return how a chunk with one event of a stream begins when it has so many bytes in all.

    The size of a chunk follows from its length. Empty when there is no such event.
    """
    head = b""
    least = len(stream.start) + len(stream.after)
    if stream.start and length <= least + _HOLE_BYTES:
        for digits in range(1, 6):
            size = length - digits - 4  # two line ends
            if size > 0 and len(f"{size:x}") == digits and size + 2 >= least:
                head = f"{size:x}\r\n".encode() + stream.start
        stream.heads[length] = head
    return head


def take_known(stream: TokenEvents, data: bytes, position: int, at_ns: int) -> int:
    """Take in chunks that are one known event each; return where that ends.

    What comes after the hole ends in line ends that stand nowhere else in such a chunk, so it
    parts the chunks.
    """
    after, known, heads = stream.after, stream.known, stream.heads
    tail, counts, texts = len(after), list[int](), stream.texts
    while True:
        pieces = data[position : position + _AT_ONCE].split(after)
        pieces.pop()  # not a whole chunk
        for piece in pieces:
            length = len(piece) + tail
            head = heads.get(length)
            if head is None:
                head = head_of(stream, length)
            if not head or not piece.startswith(head):
                break
            hole = piece[len(head) :]
            count = known.get(hole)
            if count is None:
                if not texts or not is_plain(hole):
                    break
                count = 0
            counts.append(count)
            position += length
        else:
            if pieces:
                continue
        stream.times.extend([at_ns] * len(counts))
        stream.tokens.extend(counts)
        return position
