"""Facts about the flags that a server knows."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Flag:
    """One option of the server, as its help prints it.

    Attributes:
        names: All its names, such as `--tensor-parallel-size` and `-tp`.
        values: How many values it takes: `` (none), `1`, `?` (at most one), `+` or `*`.
        choices: The only values that it takes, empty for any.
        kind: What its values are: `int`, `float`, `human` (`8k`) or `json`, with a `?` where `None`
            stands for none; empty when it is not known or any word will do. No help tells it.
        known: Values that vLLM itself knows, in any case; a plugin may add others.
    """

    names: tuple[str, ...]
    values: str = ""
    choices: tuple[str, ...] = ()
    kind: str = ""
    known: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class HelpFacts:
    """What the help of a server says.

    Attributes:
        version: Version of vLLM, empty when unknown.
        source: Where it was read, such as the cache or a container.
        flags: All options; empty when the help was not read.
        spare_word: Whether one word too many is taken, for the model, and does nothing: the server
            is started with `--model`, and its parser has a place for a model without it, too.
        problem: Why it could not be read, empty when it could; never a reason to refuse a launch.
        took_s: How long reading took.
    """

    version: str = ""
    source: str = ""
    flags: tuple[Flag, ...] = ()
    spare_word: bool = False
    problem: str = ""
    took_s: float = 0.0
