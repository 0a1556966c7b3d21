"""Conversations as chat requests bring them: judged, and rendered into a prompt."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_vllm.simulator.errors import ApiError, InvalidFieldsError, invalid
from pytest_vllm.simulator.template import render

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pytest_vllm.simulator.serving import Serving

_PARTS = {"text", "input_text", "output_text", "refusal", "thinking"}
_MEDIA = {"image_url", "input_audio", "video_url", "audio_url", "image_pil", "input_image"}
_KINDS = ("Developer", "System", "User", "Assistant", "Tool", "Function")


def check_messages(serving: Serving, messages: Any) -> list[dict[str, Any]]:
    """Return the messages of a chat request.

    Raises:
        ApiError: They are no messages, none, or of a kind that the model cannot read.
    """
    if messages is None:
        raise ApiError("'NoneType' object is not iterable")
    if not isinstance(messages, list):
        text = "Input should be a valid list"
        raise InvalidFieldsError([invalid("list_type", "body.messages", text, messages)])
    for at, message in enumerate(messages):
        _check_message(serving, f"body.messages.{at}", message)
    return messages


def _check_message(serving: Serving, place: str, message: Any) -> None:
    first = f"{place}.ChatCompletionDeveloperMessageParam"
    if not isinstance(message, dict):
        text = "Input should be a valid dictionary"
        raise InvalidFieldsError([invalid("dict_type", first, text, message)] * len(_KINDS))
    if "role" not in message:
        raise InvalidFieldsError(
            [
                invalid(
                    "missing",
                    f"{place}.ChatCompletion{kind}MessageParam.role",
                    "Field required",
                    message,
                )
                for kind in _KINDS
            ]
        )
    role, content = message["role"], message.get("content")
    if not isinstance(role, str):
        raise InvalidFieldsError(
            [
                invalid(
                    "literal_error",
                    f"{place}.ChatCompletion{kind}MessageParam.role",
                    f"Input should be '{kind.lower()}'",
                    role,
                    expected=f"'{kind.lower()}'",
                )
                for kind in _KINDS
            ]
        )
    if isinstance(content, list):
        for part in content:
            _check_part(serving, part)
    elif (content is not None and not isinstance(content, str)) or (
        content is None and "content" in message and role in {"user", "system", "developer"}
    ):
        text = "Input should be a valid string"
        raise InvalidFieldsError(
            [
                entry
                for kind in _KINDS
                for entry in (
                    invalid(
                        "string_type",
                        f"{place}.ChatCompletion{kind}MessageParam.content",
                        text,
                        content,
                    ),
                    invalid(
                        "iterable_type",
                        f"{place}.ChatCompletion{kind}MessageParam.content",
                        "Input should be iterable",
                        content,
                    ),
                )
            ]
        )


def _check_part(serving: Serving, part: Any) -> None:
    if isinstance(part, str):
        return
    kind = part.get("type") if isinstance(part, dict) else None
    if kind in _MEDIA:
        raise ApiError(f"{serving.name} is not a multimodal model")
    if kind in _PARTS or (isinstance(part, dict) and kind is None and "text" in part):
        return
    raise ApiError(
        "2 validation errors for ValidatorIterator\n0.ChatCompletionContentPartTextParam.text\n"
        "  Field required [type=missing, input_type=dict]\n"
        "0.ChatCompletionContentPartTextParam.type\n"
        "  Input should be 'text' [type=literal_error, input_type=str]"
    )


def rendered(
    serving: Serving,
    messages: Sequence[Mapping[str, Any]],
    values: Mapping[str, Any],
    tools: Sequence[Mapping[str, Any]] = (),
) -> str:
    """Return the text that the chat template makes of messages.

    Args:
        serving: The server.
        messages: The conversation.
        values: Fields of the request that steer the template.
        tools: Functions that the model may call.

    Raises:
        ApiError: There is no template, or it cannot do that.
    """
    if values.get("chat_template") is not None:
        raise ApiError(
            "Chat template is passed with request, but --trust-request-chat-template is not set. "
            "Refused request with untrusted chat template."
        )
    if not serving.settings.chat_template:
        raise ApiError(
            "As of transformers v4.44, default chat template is no longer allowed, so you must "
            "provide a chat template if the tokenizer does not define one."
        )
    if not messages:
        raise ApiError(
            "Cannot apply chat template to an empty conversation. Provide at least one message."
        )
    continues = bool(values.get("continue_final_message", False))
    generation = bool(values.get("add_generation_prompt", True))
    if continues and generation:
        raise ApiError(
            "continue_final_message and add_generation_prompt are not compatible. Use "
            "continue_final_message when you want the model to continue the final message, and "
            "add_generation_prompt when you want to add a header that will prompt it to start a "
            "new assistant message instead."
        )
    return render(messages, tools=tools, generation_prompt=generation, continue_final=continues)
