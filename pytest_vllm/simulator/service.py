"""What a server says about itself: health, version, models, load, metrics, tokens."""

from __future__ import annotations

import secrets
import time
from typing import TYPE_CHECKING, Any

from pytest_vllm.simulator import fields
from pytest_vllm.simulator.errors import ApiError, InvalidFieldsError, invalid, json_answer
from pytest_vllm.simulator.messages_in import check_messages, rendered
from pytest_vllm.simulator.wire import Answer

if TYPE_CHECKING:
    from pytest_vllm.simulator.serving import Serving
    from pytest_vllm.simulator.wire import Reply, Request

_METRICS_HEADERS = {"content-type": "text/plain; version=1.0.0; charset=utf-8"}
_TOKENIZE = {
    "model": fields.string,
    "prompt": fields.string,
    "add_special_tokens": fields.boolean,
    "return_token_strs": fields.boolean,
    "add_generation_prompt": fields.boolean,
    "continue_final_message": fields.boolean,
    "chat_template": fields.string,
    "tools": fields.array,
}


async def health(serving: Serving, request: Request) -> Reply:
    """Say that the engine is alive."""
    del serving, request
    return Answer(headers={})


async def version(serving: Serving, request: Request) -> Reply:
    """Tell the version."""
    del request
    return json_answer({"version": serving.settings.version})


async def load(serving: Serving, request: Request) -> Reply:
    """Tell the load, 0 unless it is tracked."""
    del request
    tracked = serving.settings.enable_server_load_tracking
    gauges = serving.engine.gauges
    count = int(gauges["running"] + gauges["waiting"]) if tracked else 0
    return json_answer({"server_load": count})


async def kv_event_sources(serving: Serving, request: Request) -> Reply:
    """Name the sources of KV cache events: none."""
    del serving, request
    return json_answer({})


async def scale_out(serving: Serving, request: Request) -> Reply:
    """Refuse what only a scaled-out server answers."""
    del serving, request
    raise ApiError(
        "Scale-out endpoints are disabled. Restart vllm serve with --enable-scale-out to enable "
        "them.",
        status=403,
        kind="PermissionDeniedError",
    )


async def models(serving: Serving, request: Request) -> Reply:
    """List the served names."""
    del request
    now = int(time.time())
    permission = {
        "object": "model_permission",
        "created": now,
        "allow_create_engine": False,
        "allow_sampling": True,
        "allow_logprobs": True,
        "allow_search_indices": False,
        "allow_view": True,
        "allow_fine_tuning": False,
        "organization": "*",
        "group": None,
        "is_blocking": False,
    }
    entries = [
        {
            "id": name,
            "object": "model",
            "created": now,
            "owned_by": "vllm",
            "root": serving.settings.model,
            "parent": None,
            "max_model_len": serving.settings.max_model_len,
            "permission": [{"id": f"modelperm-{secrets.token_hex(8)}", **permission}],
        }
        for name in serving.settings.names
    ]
    return json_answer({"object": "list", "data": entries})


async def metrics(serving: Serving, request: Request) -> Reply:
    """Tell what the engine counted."""
    del request
    engine = serving.engine
    text = engine.metrics.render(serving.settings, engine.gauges)
    return Answer(headers=_METRICS_HEADERS, body=text.encode())


async def tokenize(serving: Serving, request: Request) -> Reply:
    """Tell the tokens of a text or of a conversation."""
    document = serving.document(request)
    values = fields.read(document, _TOKENIZE)
    if "messages" in document:
        messages = check_messages(serving, document["messages"])
        serving.check_model(values)
        text = rendered(serving, messages, values, values.get("tools") or ())
    else:
        if "prompt" not in values:
            raise InvalidFieldsError(
                [
                    invalid("missing", f"body.{name}", "Field required", document)
                    for name in ("prompt", "messages")
                ]
            )
        serving.check_model(values)
        text = values["prompt"]
    tokens = serving.encode(text)
    tokenizer = serving.engine.tokenizer
    strings: list[str] | None = None
    if values.get("return_token_strs"):
        strings = [tokenizer.token_string(token) for token in tokens]
    document = {
        "count": len(tokens),
        "max_model_len": serving.settings.max_model_len,
        "tokens": tokens,
        "token_strs": strings,
    }
    return json_answer(document)


async def detokenize(serving: Serving, request: Request) -> Reply:
    """Tell the text of tokens."""
    document = serving.document(request)
    fields.required(document, "tokens")
    values = fields.read(document, {"model": fields.string, "tokens": _tokens})
    serving.check_model(values)
    return json_answer({"prompt": serving.engine.tokenizer.decode(values.get("tokens", []))})


def _tokens(place: str, value: Any) -> list[int]:
    tokens = fields.integers(place, value)
    for at, token in enumerate(tokens):
        if token < 0:
            text = "Input should be greater than or equal to 0"
            raise fields.WrongTypeError(
                invalid("greater_than_equal", f"{place}.{at}", text, token, ge=0)
            )
    return tokens


async def docs(serving: Serving, request: Request) -> Reply:
    """Show the API to people."""
    del serving, request
    page = (
        "<!DOCTYPE html>\n<html>\n<head><title>FastAPI - Swagger UI</title></head>\n"
        '<body><div id="swagger-ui"></div></body>\n</html>\n'
    )
    return Answer(headers={"content-type": "text/html; charset=utf-8"}, body=page.encode())
