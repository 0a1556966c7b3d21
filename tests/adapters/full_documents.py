"""A document of each schema with every field filled, since no one reply of a real server is."""

from __future__ import annotations

from typing import Any

METRICS = {
    "time_to_first_token_ms": 1.5,
    "generation_time_ms": 1.5,
    "queue_time_ms": 1.5,
    "mean_itl_ms": 1.5,
    "tokens_per_second": 1.5,
    "speculative_decoding": {"anything": [1]},
}
USAGE: dict[str, Any] = {
    "prompt_tokens": 5,
    "completion_tokens": 8,
    "total_tokens": 13,
    "prompt_tokens_details": {
        "cached_tokens": 1,
        "audio_tokens": 1,
        "text_tokens": 1,
        "image_tokens": 1,
        "cache_write_tokens": 1,
        "created_cache_tokens": 1,
        "multimodal_tokens": {"image": 1},
    },
    "completion_tokens_details": {
        "reasoning_tokens": 1,
        "audio_tokens": 1,
        "text_tokens": 1,
        "accepted_prediction_tokens": 1,
        "rejected_prediction_tokens": 1,
    },
}
ENVELOPE = {
    "id": "cmpl-1",
    "created": 1795362738,
    "model": "smollm2",
    "service_tier": "default",
    "system_fingerprint": "vllm-0.32.0",
    "metrics": METRICS,
    "usage": USAGE,
}
TRANSFER = {"kv_transfer_params": {"any": 1}, "ec_transfer_params": {"any": 1}}
COMPLETION_LOGPROBS = {
    "tokens": ["a", "b"],
    "token_logprobs": [-0.5, -0.5],
    "top_logprobs": [{"a": -0.5}, {"b": -0.5}],
    "text_offset": [0, 1],
}
PROMPT_LOGPROBS = [
    {"5": {"logprob": -0.5, "rank": 1, "decoded_token": "a"}},
    {"6": {"logprob": -0.5, "rank": 1, "decoded_token": "b"}},
]
COMPLETION_CHOICE = {
    "index": 0,
    "text": "ab",
    "finish_reason": "length",
    "logprobs": COMPLETION_LOGPROBS,
    "stop_reason": 5,
    "token_ids": [1],
    "prompt_token_ids": [1],
    "routed_experts": "k05VTVBZ",
}
TOKEN = {"token": "a", "logprob": -0.5, "bytes": [97]}
CHAT_LOGPROBS = {
    "content": [{**TOKEN, "top_logprobs": [TOKEN]}],
    "refusal": [{**TOKEN, "top_logprobs": [TOKEN]}],
}
AUDIO = {"id": "a", "data": "AA==", "expires_at": 1, "transcript": "hm"}
MESSAGE = {
    "role": "assistant",
    "content": "ab",
    "refusal": "no",
    "annotations": [
        {
            "type": "url_citation",
            "url_citation": {"start_index": 0, "end_index": 1, "title": "t", "url": "u"},
        }
    ],
    "audio": AUDIO,
    "function_call": {"name": "f", "arguments": "{}"},
    "tool_calls": [
        {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}},
        {"id": "b", "type": "custom", "custom": {"name": "c", "input": "text"}},
    ],
    "reasoning": "hm",
    "reasoning_content": "hm",
}
DELTA = {
    "role": "assistant",
    "content": "ab",
    "refusal": "no",
    "audio": AUDIO,
    "function_call": {"name": "f", "arguments": "{}"},
    "tool_calls": [
        {"index": 0, "id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    ],
    "reasoning": "hm",
    "reasoning_content": "hm",
}
CHAT_CHOICE = {
    "index": 0,
    "finish_reason": "stop",
    "logprobs": CHAT_LOGPROBS,
    "stop_reason": 5,
    "token_ids": [1],
    "routed_experts": "k05VTVBZ",
}
PERMISSIONS = [
    "allow_create_engine",
    "allow_sampling",
    "allow_logprobs",
    "allow_search_indices",
    "allow_view",
    "allow_fine_tuning",
    "is_blocking",
]
FULL: dict[str, Any] = {
    "completions/response": {
        **ENVELOPE,
        **TRANSFER,
        "object": "text_completion",
        "choices": [{**COMPLETION_CHOICE, "prompt_logprobs": PROMPT_LOGPROBS}],
    },
    "completions/chunk": {
        **ENVELOPE,
        **TRANSFER,
        "object": "text_completion",
        "choices": [COMPLETION_CHOICE],
    },
    "chat/response": {
        **ENVELOPE,
        **TRANSFER,
        "object": "chat.completion",
        "choices": [{**CHAT_CHOICE, "message": MESSAGE}],
        "metadata": {"a": "b"},
        "prompt_logprobs": PROMPT_LOGPROBS,
        "prompt_token_ids": [1],
        "prompt_text": "a",
    },
    "chat/chunk": {
        **ENVELOPE,
        **TRANSFER,
        "object": "chat.completion.chunk",
        "choices": [{**CHAT_CHOICE, "delta": DELTA}],
        "obfuscation": "xx",
        "prompt_token_ids": [1],
        "prompt_text": "a",
    },
    "models/list": {
        "object": "list",
        "data": [
            {
                "id": "smollm2",
                "object": "model",
                "created": 1,
                "owned_by": "vllm",
                "shutdown_date": "2030-01-01",
                "root": "/models/smollm2",
                "parent": "base",
                "max_model_len": 2048,
                "permission": [
                    {
                        "id": "modelperm-1",
                        "object": "model_permission",
                        "created": 1,
                        "organization": "*",
                        "group": "g",
                        **dict.fromkeys(PERMISSIONS, True),
                    }
                ],
            }
        ],
    },
    "errors/error": {"error": {"message": "no", "type": "NotFound", "param": "model", "code": 404}},
    "errors/detail": {
        "detail": [
            {"loc": ["body"], "msg": "m", "type": "t", "ctx": {"any": 1}, "url": "u", "input": 1}
        ]
    },
    "server/version": {"version": "0.32.0"},
    "tokenize/response": {
        "count": 1,
        "max_model_len": 2048,
        "tokens": [1],
        "token_strs": ["a"],
    },
    "detokenize/response": {"prompt": "a"},
}
