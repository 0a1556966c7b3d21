"""Numbers of an accepted server or a reference that this server must reproduce.

Without `--vllm-golden=FILE` none of this is applicable. Texts are never compared.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_vllm import Client, check, suite
from pytest_vllm.adapters.content import threshold
from pytest_vllm.domain.golden import COPY, LONG, TEXT, Distance, measure
from pytest_vllm.plugin.content import score
from pytest_vllm.plugin.golden import differ, load_golden, same_precision, score_golden

if TYPE_CHECKING:
    from pytest_vllm.domain.golden import Golden
    from pytest_vllm.domain.target import Target

pytestmark = suite("golden", concurrent=True)


@check("golden.tokenizer.same-ids", ref="N03", needs=("tokenize",))
def test_tokenizer(vllm: Client, vllm_target: Target) -> None:
    """Texts MUST become the token IDs of the golden."""
    golden = load_golden(vllm_target, vllm)
    bad = [
        f"{text!r}: required {list(ids)}, saw {seen}"
        for text, ids in golden.strings.items()
        if (seen := vllm.tokenize(text)) != list(ids)
    ]
    if bad:
        differ(golden, vllm, "\n".join(bad))


@check("golden.template.same-ids", ref="N04", needs=("chat", "tokenize"))
def test_template(vllm: Client, vllm_target: Target) -> None:
    """Conversations MUST be rendered to the token IDs of the golden."""
    golden = load_golden(vllm_target, vllm)
    bad = [
        f"{messages}: required {list(ids)}, saw {seen}"
        for messages, ids in golden.conversations
        if (seen := vllm.tokenize([dict(message) for message in messages])) != list(ids)
    ]
    if bad:
        differ(golden, vllm, "\n".join(bad))


@check("golden.texts.same-numbers", ref="Q06 Q07", catches=("logprobs-log2",))
def test_texts(vllm: Client, vllm_target: Target) -> None:
    """Prose and code MUST have the probabilities and the best tokens of the golden."""
    golden = load_golden(vllm_target, vllm)
    same = same_precision(golden, vllm_target)
    texts = [text for text in golden.texts if text.kind == TEXT]
    found = measure(zip(texts, score(vllm, [text.ids for text in texts], top=1), strict=True))
    vllm.observe("golden.texts", found)
    fine = (
        found.mean <= threshold("golden-text-mean", same=same)
        and found.p99 <= threshold("golden-text-p99", same=same)
        and found.agreement >= threshold("golden-agreement", same=same)
        and len(found.misses) <= threshold("golden-misses", same=same) * found.count
    )
    if not fine:
        differ(golden, vllm, f"prose and code: {found}")


@check("golden.copy.same-numbers", ref="Q06")
def test_copy(vllm: Client, vllm_target: Target) -> None:
    """A row of words that comes a second time MUST have the probabilities of the golden."""
    golden = load_golden(vllm_target, vllm)
    _hold(golden, vllm, vllm_target, COPY)


@check("golden.long.same-numbers", ref="Q06 Q10")
def test_long(vllm: Client, vllm_target: Target) -> None:
    """A row that comes again at 80 % of the context MUST have the probabilities of the golden."""
    golden = load_golden(vllm_target, vllm)
    _hold(golden, vllm, vllm_target, LONG)


def _hold(golden: Golden, vllm: Client, target: Target, kind: str) -> None:
    texts = [text for text in golden.texts if text.kind == kind]
    found: Distance = measure((text, score_golden(vllm, text.ids, top=0)) for text in texts)
    vllm.observe(f"golden.{kind}", found)
    if found.mean > threshold(f"golden-{kind}-mean", same=same_precision(golden, target)):
        differ(golden, vllm, f"{', '.join(text.name for text in texts)}: {found}")
