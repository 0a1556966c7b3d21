"""Refusals in vLLM's words and shapes."""

from __future__ import annotations

import json
from typing import Any

from pytest_vllm.simulator.wire import Answer


class ApiError(Exception):
    """A request that is refused.

    Args:
        message: What is wrong.
        status: HTTP status.
        kind: Type of the error.
        param: Parameter that is wrong, if one is.
        value: Its value, named in the message with the parameter.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int = 400,
        kind: str = "BadRequestError",
        param: str | None = None,
        value: Any = ...,
    ) -> None:
        if value is not ... and param is not None:
            message = f"{message} (parameter={param}, value={value})"
        super().__init__(message)
        self.message = message
        self.status = status
        self.kind = kind
        self.param = param

    def answer(self) -> Answer:
        """Return the error as a reply."""
        error = {
            "message": self.message,
            "type": self.kind,
            "param": self.param,
            "code": self.status,
        }
        return json_answer({"error": error}, status=self.status)


def about(message: str, param: str) -> ApiError:
    """Return a refusal that names its parameter without a value."""
    return ApiError(f"{message} (parameter={param})", param=param)


class InvalidFieldsError(ApiError):
    """Fields of the wrong type, told as pydantic does.

    Args:
        found: Each with `type`, `loc`, `msg` and `input`, and `ctx` where there is one.
    """

    def __init__(self, found: list[dict[str, Any]]) -> None:
        noun = "error" if len(found) == 1 else "errors"
        lines = "".join(f"\n  {entry}" for entry in found)
        super().__init__(
            f"{len(found)} validation {noun}:{lines}",
            kind="Bad Request",
            param=found[0]["loc"] if found else None,
        )


def invalid(kind: str, place: str, message: str, value: Any, **context: Any) -> dict[str, Any]:
    """Return one entry for `InvalidFieldsError`."""
    entry = {"type": kind, "loc": place, "msg": message, "input": described(value)}
    return {**entry, "ctx": context} if context else entry


def described(value: Any) -> str:
    """Return a value as an error shows it: containers by their size."""
    if isinstance(value, (dict, list)):
        return f"<{type(value).__name__} of {len(value)} items>"
    return str(value)[:200]


def json_answer(document: Any, *, status: int = 200) -> Answer:
    """Return a JSON reply.

    Raises:
        ApiError: The document has a number that JSON cannot say; vLLM answers 500 then.
    """
    try:
        body = dump(document)
    except ValueError:
        raise ApiError(
            "Out of range float values are not JSON compliant",
            status=500,
            kind="InternalServerError",
        ) from None
    return Answer(status=status, headers={"content-type": "application/json"}, body=body.encode())


def dump(document: Any) -> str:
    """Return JSON as vLLM writes it: no blanks, no escapes beyond JSON's own.

    Raises:
        ValueError: A number is infinite or none.
    """
    return _ENCODER.encode(document)


_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))
