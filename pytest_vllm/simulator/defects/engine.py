"""Defects of the model, the cache and the batch: flaws of the simulator's own engine."""

from __future__ import annotations

from pytest_vllm.simulator.defects.defect import Defect

DEFECTS = (
    Defect(
        name="decode-kv-wrong",
        summary="What decode reads from the KV cache is corrupt; prefill is right.",
        issue="vllm#45562",
        flaw="decode-corrupts",
    ),
    Defect(
        name="batch-corrupt",
        summary="Logits are wrong while more than two requests run.",
        issue="vllm PR44988",
        flaw="batch-corrupts",
    ),
    Defect(
        name="odd-batch-corrupt",
        summary="Logits are wrong in batches of odd sizes, which graphs pad.",
        issue="vllm#13418",
        flaw="odd-batch-corrupts",
    ),
    Defect(
        name="cache-corrupt",
        summary="A hit in the prefix cache gives another prompt's state.",
        issue="vllm#40896",
        flaw="cache-returns-other-prompt",
    ),
    Defect(
        name="salt-ignored",
        summary="`cache_salt` does not keep prefix caches apart.",
        flaw="cache-ignores-salt",
    ),
    Defect(
        name="weights-wrong",
        summary="The weights are nonsense: each prediction goes to another token.",
        issue="vllm#33678",
        flaw="shuffled-weights",
    ),
    Defect(
        name="copy-lost",
        summary="Attention sees the last token only: nothing is ever copied from the context.",
        issue="vllm#19052",
        flaw="no-attention",
    ),
    Defect(
        name="window-lost",
        summary="Only the last 64 tokens of the context are seen.",
        issue="vllm#50603",
        flaw="window-forgets",
    ),
    Defect(
        name="long-context-lost",
        summary="Logits are wrong beyond 600 tokens of context.",
        issue="aiter#4855",
        flaw="long-context-corrupts",
    ),
    Defect(
        name="nan-late",
        summary="Logits are not a number beyond 512 tokens of context.",
        issue="rocm-libraries#9055",
        flaw="nan-after-512",
    ),
    Defect(
        name="first-request-wrong",
        summary="The first request after launch gets wrong logits.",
        issue="vllm#50603",
        flaw="first-request-corrupts",
    ),
    Defect(
        name="logits-flat",
        summary="Logits are a third of what they are: a scale was lost.",
        issue="vllm PR50467",
        flaw="flat-logits",
    ),
    Defect(
        name="slots-leak",
        summary="Each cancelled request keeps its place in the batch for good.",
        issue="vllm#10806",
        flaw="slots-leak",
    ),
    Defect(
        name="logprobs-processed",
        summary="Log probabilities are told after bias and penalties instead of raw.",
        flaw="logprobs-processed",
    ),
)
