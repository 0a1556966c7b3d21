"""What the chat template makes of messages: continuation, generation prompt, images, trust."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_vllm import INFO, SHOULD, Client, check, not_applicable, suite

if TYPE_CHECKING:
    from pytest_vllm.domain.target import Target

pytestmark = suite("templates", concurrent=True)

PATH = "/v1/chat/completions"
QUESTION = "What is the capital of France?"
USER: dict[str, Any] = {"role": "user", "content": QUESTION}
HARMONY = "<|start|>system<|message|>"
CHAT = ("chat",)
# A red square of 64 by 64 pixels.
IMAGE = (
    "data:image/png;base64,"
    "iVBORw0KGgoAAAANSUhEUgAAAEAAAABACAIAAAAlC+aJAAAAS0lEQVR42u3PQQkAAAgAsetfWiP4FgYrsKZe"
    "S0BAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEDgsqnc8OJg6Ln3AAAAAElF"
    "TkSuQmCC"
)


@check("templates.continue.opens-no-turn", needs=CHAT, ref="K10", catches=("continue-ignored",))
def test_continue(vllm: Client, vllm_target: Target) -> None:
    """With `continue_final_message`, the model MUST go on in the last message, not begin one."""
    vllm.require_field("continue_final_message", request="ChatCompletionRequest")
    _require_template(vllm, vllm_target)
    messages = [USER, {"role": "assistant", "content": "The capital of France is"}]
    body = {"model": vllm.model, "messages": messages, "max_tokens": 1}
    going_on = {"continue_final_message": True, "add_generation_prompt": False}
    replies = [vllm.send("POST", PATH, body={**body, **fields}) for fields in (going_on, {})]
    if 400 in [reply.status for reply in replies]:
        not_applicable("the chat template takes no reply of the assistant at the end")
    continued, opened = (reply.json["usage"]["prompt_tokens"] for reply in replies)
    assert continued < opened


@check("templates.continue.and-open-refused", needs=CHAT, ref="K11", catches=("refusal-200",))
def test_continue_and_open(vllm: Client) -> None:
    """To continue a message and to open one at the same time MUST be refused."""
    vllm.require_field("continue_final_message", request="ChatCompletionRequest")
    messages = [USER, {"role": "assistant", "content": "The capital of France is"}]
    fields = {"continue_final_message": True, "add_generation_prompt": True}
    vllm.refuse(PATH, body={"messages": messages, **fields}, statuses=(400, 422))


@check(
    "templates.prompt.as-tokenized",
    needs=("chat", "tokenize"),
    ref="K12 N04",
    catches=("generation-prompt-missing", "tokenize-template-missing"),
)
def test_prompt_ids(vllm: Client, vllm_target: Target) -> None:
    """The model MUST be given the tokens that `/tokenize` makes of the messages."""
    vllm.require_field("return_token_ids", request="ChatCompletionRequest")
    _require_template(vllm, vllm_target)
    ids = vllm.tokenize([USER])
    assert vllm.chat([USER], max_tokens=1, return_token_ids=True).json["prompt_token_ids"] == ids


@check("templates.prompt.without-generation-prompt", level=INFO, needs=CHAT, ref="K14")
def test_no_generation_prompt(vllm: Client) -> None:
    """What a reply without a generation prompt looks like is noted."""
    body = {"model": vllm.model, "messages": [USER], "max_tokens": 1}
    reply = vllm.send("POST", PATH, body={**body, "add_generation_prompt": False})
    role = reply.json["choices"][0]["message"]["role"] if reply.status == 200 else ""
    vllm.observe("templates.prompt.without-generation-prompt", f"{reply.status} {role}")


@check("templates.image.refused", needs=CHAT, ref="K15", catches=("refusal-500", "refusal-200"))
def test_image(vllm: Client) -> None:
    """An image for a model that reads only text MUST be refused with an error."""
    image = {"type": "image_url", "image_url": {"url": IMAGE}}
    messages = [{"role": "user", "content": [{"type": "text", "text": QUESTION}, image]}]
    body = {"model": vllm.model, "messages": messages, "max_tokens": 1}
    reply = vllm.send("POST", PATH, body=body)
    if reply.status == 200 and reply.json["usage"]["prompt_tokens"] > _prompt_tokens(vllm, [USER]):
        not_applicable("the model reads images")
    vllm.refuse(PATH, body=body, statuses=(400, 422))


@check("templates.request.untrusted", level=SHOULD, needs=CHAT, ref="K16", catches=("refusal-200",))
def test_template(vllm: Client, vllm_target: Target) -> None:
    """A chat template out of a request SHOULD be refused, unless the launch trusts those."""
    if vllm_target.serve_args.has("--trust-request-chat-template"):
        not_applicable("the server was started with --trust-request-chat-template")
    body = {"messages": [USER], "chat_template": "{{ messages[0]['content'] }}"}
    vllm.refuse(PATH, body=body, statuses=(400, 422))


def _require_template(vllm: Client, target: Target) -> None:
    """End the check where chat and `/tokenize` may rightly make different prompts."""
    if HARMONY in vllm.detokenize(vllm.tokenize([USER])):
        not_applicable("the chat endpoint writes the prompt of gpt-oss by itself")
    if target.serve_args.has("--default-chat-template-kwargs"):
        not_applicable("the server was started with --default-chat-template-kwargs")


def _prompt_tokens(vllm: Client, messages: list[dict[str, Any]]) -> int:
    usage: dict[str, int] = vllm.chat(messages, max_tokens=1).json["usage"]
    return usage["prompt_tokens"]
