"""Routes: which endpoint answers what, behind the key and in the shapes of the web framework."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_vllm.simulator import service
from pytest_vllm.simulator.chat import CHAT_FIELDS, chat_completions
from pytest_vllm.simulator.chat_batch import chat_batch
from pytest_vllm.simulator.completions import COMPLETION_FIELDS, completions
from pytest_vllm.simulator.errors import ApiError, json_answer
from pytest_vllm.simulator.messages import count_tokens, messages
from pytest_vllm.simulator.responses import cancel_response, get_response, responses
from pytest_vllm.simulator.serving import Serving, UnreadableBodyError
from pytest_vllm.simulator.wire import Answer

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from pytest_vllm.simulator.settings import SimulatorSettings
    from pytest_vllm.simulator.wire import Handler, Reply, Request

    Endpoint = Callable[[Serving, Request], Awaitable[Reply]]

_RESPONSE = "/v1/responses/{response_id}"


async def _openapi(serving: Serving, request: Request) -> Reply:
    """Describe the endpoints as shortly as vLLM 0.32 does: any body under 200."""
    del serving, request
    answers = {"200": {"description": "Successful Response", "content": {"application/json": {}}}}
    paths = {
        path: {method.lower(): {"responses": answers} for method in methods}
        for path, methods in ROUTES.items()
        if path not in {"/docs", "/openapi.json"}
    }
    schemas = {
        name: {"type": "object", "properties": {field: {} for field in known}}
        for name, known in (
            ("CompletionRequest", COMPLETION_FIELDS),
            ("ChatCompletionRequest", CHAT_FIELDS),
        )
    }
    info = {"title": "FastAPI", "version": "0.1.0"}
    described = {"openapi": "3.1.0", "info": info, "paths": paths}
    return json_answer({**described, "components": {"schemas": schemas}})


ROUTES: Mapping[str, Mapping[str, Endpoint]] = {
    "/health": {"GET": service.health},
    "/ping": {"GET": service.health, "POST": service.health},
    "/version": {"GET": service.version},
    "/load": {"GET": service.load},
    "/metrics": {"GET": service.metrics},
    "/kv_event_sources": {"GET": service.kv_event_sources},
    "/docs": {"GET": service.docs},
    "/openapi.json": {"GET": _openapi},
    "/tokenize": {"POST": service.tokenize},
    "/detokenize": {"POST": service.detokenize},
    "/v1/models": {"GET": service.models},
    "/v1/completions": {"POST": completions},
    "/v1/chat/completions": {"POST": chat_completions},
    "/v1/chat/completions/batch": {"POST": chat_batch},
    "/v1/responses": {"POST": responses},
    _RESPONSE: {"GET": get_response},
    f"{_RESPONSE}/cancel": {"POST": cancel_response},
    "/v1/messages": {"POST": messages},
    "/v1/messages/count_tokens": {"POST": count_tokens},
    "/invocations": {"POST": completions},
    "/v1/completions/render": {"POST": service.scale_out},
    "/v1/chat/completions/render": {"POST": service.scale_out},
    "/inference/v1/generate": {"POST": service.scale_out},
}


def build_handler(settings: SimulatorSettings) -> Handler:
    """Start an engine and return what answers for it."""
    serving = Serving.start(settings)

    async def handle(request: Request) -> Reply:
        guarded = settings.api_key is not None and request.path.startswith("/v1")
        if guarded and request.headers.get("authorization") != f"Bearer {settings.api_key}":
            return json_answer({"error": "Unauthorized"}, status=401)
        reply = await _routed(serving, request)
        asked = request.headers.get("x-request-id")
        if asked and settings.enable_request_id_headers:
            reply.headers["x-request-id"] = asked
        return reply

    return handle


async def _routed(serving: Serving, request: Request) -> Reply:
    methods = ROUTES.get(request.path) or _by_pattern(request.path)
    if methods is None:
        bare = request.path.rstrip("/")
        if request.path != "/" and bare in ROUTES:
            host = request.headers.get("host", "")
            return Answer(status=307, headers={"location": f"http://{host}{bare}"})
        return json_answer({"detail": "Not Found"}, status=404)
    endpoint = methods.get(request.method)
    if endpoint is None:
        refusal = json_answer({"detail": "Method Not Allowed"}, status=405)
        refusal.headers["allow"] = ", ".join(methods)
        return refusal
    try:
        return await endpoint(serving, request)
    except ApiError as error:
        return error.answer()
    except UnreadableBodyError:
        return json_answer({"detail": "There was an error parsing the body"}, status=400)


def _by_pattern(path: str) -> Mapping[str, Endpoint] | None:
    parts = path.split("/")
    if parts[:3] == ["", "v1", "responses"] and len(parts) > 3 and parts[3]:  # noqa: PLR2004
        return ROUTES.get("/".join([_RESPONSE, *parts[4:]]))
    return None
