"""Tools of a chat request: which may be called, which must be, and which were."""

from __future__ import annotations

import json
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytest_vllm.simulator.errors import ApiError, InvalidFieldsError, about, invalid
from pytest_vllm.simulator.structured import tool_constraint_factory

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from pytest_vllm.simulator.engine import Constraint
    from pytest_vllm.simulator.serving import Serving
    from pytest_vllm.simulator.tokens import Tokenizer

_OPEN, _CLOSE = "<tool_call>", "</tool_call>"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tools:
    """What the model may call.

    Attributes:
        listed: Tools of the request.
        choice: `none`, `auto`, `required`, or the name of a function after `named:`.
        parser: Name of the tool parser that the server was launched with, if any.
        parallel: Whether several calls are wanted.
    """

    listed: Sequence[Mapping[str, Any]] = ()
    choice: str = "none"
    parser: str | None = None
    parallel: bool = True

    @property
    def told(self) -> Sequence[Mapping[str, Any]]:
        """Tools that the prompt tells of."""
        return () if self.choice == "none" else self.listed

    @property
    def forced(self) -> bool:
        """Whether a call must come."""
        return self.choice == "required" or self.choice.startswith("named:")

    def check_choice(self) -> None:
        """Require what the choice needs.

        Raises:
            ApiError: It is not there.
        """
        if self.choice == "none" or self.parser:
            return
        if self.choice == "auto":
            raise ApiError(
                '"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser '
                "to be set"
            )
        shown = '"required"'
        if self.choice.startswith("named:"):
            shown = f'function "{self.choice.removeprefix("named:")}"'
        raise ApiError(f"tool_choice={shown} requires --tool-call-parser to be set")

    def constraint_factory(
        self, tokenizer: Tokenizer, values: Mapping[str, Any]
    ) -> Callable[[], Constraint] | None:
        """Return what keeps a text within a call, `None` when none is forced.

        Raises:
            ApiError: The parameters of a function are no schema.
        """
        del values
        if not self.forced:
            return None
        name = self.choice.removeprefix("named:")
        functions = [
            tool["function"]
            for tool in self.listed
            if self.choice == "required" or tool["function"]["name"] == name
        ]
        return tool_constraint_factory(tokenizer, functions)

    def split(self, text: str) -> tuple[str, list[dict[str, Any]]]:
        """Tell the content of a text from the calls in it; a broken call is content."""
        if not self.parser or self.choice == "none" or _OPEN not in text:
            return text, []
        content, _, rest = text.partition(_OPEN)
        calls = []
        for part in rest.split(_OPEN):
            said = _read_call(part.partition(_CLOSE)[0])
            if said is None:
                return text, []
            arguments = json.dumps(said["arguments"], ensure_ascii=False)
            calls.append(_call(said["name"], arguments))
        return content.strip(), calls

    def finish_reason(self, reason: str | None, *, called: bool) -> str | None:
        """Return the finish reason; a named call ends with `stop` in 0.32."""
        if reason == "stop" and called and not self.choice.startswith("named:"):
            return "tool_calls"
        return reason

    def reader(self) -> CallReader:
        """Return what turns a stream of text into deltas."""
        return CallReader(active=bool(self.parser) and self.choice != "none")


def _call(name: str, arguments: str) -> dict[str, Any]:
    return {
        "id": f"chatcmpl-tool-{secrets.token_hex(8)}",
        "type": "function",
        "function": {"name": name, "arguments": arguments},
    }


def _read_call(text: str) -> dict[str, Any] | None:
    try:
        said = json.loads(text)
    except ValueError:
        return None
    if isinstance(said, dict) and isinstance(said.get("name"), str) and "arguments" in said:
        return said
    return None


class CallReader:
    """Tells content from calls while a text comes.

    Args:
        active: Whether calls are looked for.
    """

    def __init__(self, *, active: bool) -> None:
        self._active = active
        self._text = ""
        self._told = 0
        self._named = False
        self.called = False
        self._calls = 0

    def deltas(self, text: str, reason: str | None) -> list[dict[str, Any]]:
        """Take text and return what can be told of it, at least one delta.

        Args:
            text: The text that came.
            reason: Why it ends here, `None` when it goes on.
        """
        if not self._active:
            return [{"content": text}]
        self._text += text
        found: list[dict[str, Any]] = []
        while True:
            before = (self._told, self._named, self._calls)
            found += (
                self._content(finished=reason is not None) if not self._inside else self._call()
            )
            if before == (self._told, self._named, self._calls):
                break
        if not found and (reason is not None or not self._inside):
            found.append({} if self.called else {"content": ""})
        return found or [{}]

    @property
    def _inside(self) -> bool:
        return self._text.startswith(_OPEN, self._told) or self._named

    def _content(self, *, finished: bool) -> list[dict[str, Any]]:
        """Tell text up to a call, and hold back what may be the beginning of its mark."""
        at = self._text.find(_OPEN, self._told)
        end = at if at >= 0 else len(self._text)
        if at < 0 and not finished:
            for length in range(min(len(_OPEN) - 1, end - self._told), 0, -1):
                if _OPEN.startswith(self._text[end - length : end]):
                    end -= length
                    break
        piece = self._text[self._told : end]
        self._told = end
        if self.called:
            piece = piece.strip()
        return [{"content": piece}] if piece else []

    def _call(self) -> list[dict[str, Any]]:
        """Tell the name of a call, then its arguments as they come."""
        if not self._named:
            mark = '"arguments": '
            at = self._text.find(mark, self._told)
            if at < 0:
                return []
            name = json.loads(self._text[self._told + len(_OPEN) : at].strip() + '"a": 1}')["name"]
            self._told = at + len(mark)
            self._named = self.called = True
            call = _call(name, "")
            call["function"].pop("arguments")
            return [{"content": None, "tool_calls": [{**call, "index": self._calls}]}]
        end = self._text.find(_CLOSE, self._told)
        closed = end >= 0
        stop = end if closed else max(self._told, len(self._text) - len(_CLOSE) - 3)
        piece = self._text[self._told : stop]
        if closed:
            piece = piece.rstrip().removesuffix("}")
        index = self._calls
        self._told = stop
        if closed:
            self._told = end + len(_CLOSE)
            self._named = False
            self._calls += 1
        if not piece:
            return []
        delta = {"index": index, "function": {"arguments": piece}}
        return [{"content": None, "tool_calls": [delta]}]


def read_tools(serving: Serving, document: Mapping[str, Any]) -> Tools:
    """Judge the tools of a chat request.

    Raises:
        ApiError: They are no tools, or the choice is none of them.
    """
    listed, choice = document.get("tools"), document.get("tool_choice")
    parser = serving.settings.tool_call_parser
    if listed is not None:
        _check_listed(listed)
    if not listed:
        if choice is not None and choice != "none":
            raise about("When using `tool_choice`, `tools` must be set.", "tool_choice")
        return Tools(parser=parser)
    parallel = document.get("parallel_tool_calls") is not False
    names = [tool["function"]["name"] for tool in listed]
    return Tools(listed=listed, choice=_choice(choice, names), parser=parser, parallel=parallel)


def _check_listed(listed: Any) -> None:
    if not isinstance(listed, list):
        text = "Input should be a valid list"
        raise InvalidFieldsError([invalid("list_type", "body.tools", text, listed)])
    if not listed:
        raise about(
            "`tools` must not be an empty array. Either provide at least one tool or omit the "
            "field entirely.",
            "tools",
        )
    for at, tool in enumerate(listed):
        place = f"body.tools.{at}"
        if not isinstance(tool, dict):
            text = "Input should be a valid dictionary or instance"
            raise InvalidFieldsError([invalid("model_type", place, text, tool)])
        if "function" not in tool:
            entry = invalid("missing", f"{place}.function", "Field required", tool)
            raise InvalidFieldsError([entry])
        function = tool["function"]
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            entry = invalid("missing", f"{place}.function.name", "Field required", function)
            raise InvalidFieldsError([entry])


def _choice(choice: Any, names: Sequence[str]) -> str:
    if choice is None:
        return "auto"
    if choice in ("none", "auto", "required"):
        return str(choice)
    if isinstance(choice, dict):
        function = choice.get("function")
        name = function.get("name") if isinstance(function, dict) else None
        if name in names:
            return f"named:{name}"
        raise about(
            "The tool specified in `tool_choice` does not match any of the specified `tools`",
            "tool_choice",
        )
    raise about(
        f'Invalid value for `tool_choice`: {choice}! Only named tools, "none", "auto" or '
        '"required" are supported.',
        "tool_choice",
    )
