"""A table that is no signature is refused with its key; a needle is never asked for in vain."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_vllm.adapters.knowledge import signatures
from pytest_vllm.domain.finding import Fault
from pytest_vllm.domain.needle import needle_of
from pytest_vllm.domain.signature import (
    Role,
    SignatureError,
    build_signatures,
    filled,
)

TABLE: dict[str, Any] = {
    "id": "gpu.x",
    "ref": "G1",
    "class": "host",
    "patterns": ["No (?P<kind>HIP|CUDA) GPUs"],
    "cause": "there is no {kind} GPU",
    "cure": ["use {other}", "--vllm-gpus=all"],
    "link": "https://example.org/1",
    "excerpt": ["No HIP GPUs"],
}


def build(**changes: Any) -> Any:
    table = {key: value for key, value in (TABLE | changes).items() if value is not None}
    return build_signatures([table], figures=("holders",))[0]


def test_a_table_becomes_a_signature() -> None:
    signature = build(hints=["maybe"], fatal=True, exit={"codes": [139]}, hang=None, count=2)
    assert signature.fault is Fault.HOST
    assert [pattern.role for pattern in signature.patterns] == [Role.CAUSE, Role.HINT]
    assert signature.exit.codes == (139,)
    assert signature.count == 2


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"id": None}, "key id is missing"),
        ({"id": "GPU X"}, "key id: 'GPU X'"),
        ({"ref": "X1"}, "key ref: 'X1'"),
        ({"class": "nobody"}, "key class: 'nobody' is none of user, model"),
        ({"patterns": ["(", "b"]}, "key patterns: '(' is no regular expression"),
        ({"patterns": 3}, "key patterns: a text or a list of texts"),
        ({"patterns": None}, "key patterns, follows, hints, requests or exit is needed"),
        ({"cause": [1]}, "key cause: a text or a list of texts"),
        ({"link": "ftp://x"}, "key link"),
        ({"figures": ["unheard-of"]}, "key figures: unheard-of does not exist"),
        ({"count": 0}, "key count: a whole number from 1"),
        ({"count": True}, "key count: a whole number from 1"),
        ({"fatal": "yes"}, "key fatal: true or false"),
        ({"fatal": True, "hang": {"until": ["x"]}}, "key fatal: only a line"),
        ({"fatal": True, "patterns": None, "hints": ["x"]}, "key fatal: only a line"),
        ({"hang": ["x"]}, "key hang: a table is needed"),
        ({"hang": {"after": "x"}}, "key after is not known"),
        ({"exit": {"codes": "139"}}, "key exit.codes: a list of whole numbers"),
        ({"colour": "red"}, "key colour is not known"),
    ],
)
def test_what_is_no_signature_is_refused_with_its_key(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(SignatureError, match=re.escape(words)) as refusal:
        build(**changes)
    assert str(refusal.value).startswith("signature 1 (")


def test_a_template_is_taken_when_all_its_names_have_values() -> None:
    values = {"kind": "HIP", "other": ""}
    assert filled(build().cause, values) == "there is no HIP GPU"
    assert filled(build().cure, values) == "--vllm-gpus=all"
    assert filled(build().cure, {"other": "{kind}"}) == "use {kind}", "values are no templates"
    assert filled(("{missing}",), values) == ""


@pytest.mark.parametrize(
    ("regex", "needle"),
    [
        ("No HIP GPUs", "No HIP GPUs"),
        (r"GPU Hang\b", "GPU Hang"),
        ("a|b", ""),
        ("abc(?:x|y)de", "abc"),
        ("ab(?P<name>cdef)", "cdef"),
        ("ab(?P<name>cdef)?", "ab"),
        ("ab(?!cdef)", "ab"),
        ("colou?r", "colo"),
        ("ab{2}c", "a"),
        (r"\[Errno 98\]", "[Errno 98]"),
        ("[abc]xyz", "xyz"),
        ("[]a]xyz", "xyz"),
        (r"[\]a]xyz", "xyz"),
        ("(?i)abc", ""),
        (r"\d+ errors", " errors"),
    ],
)
def test_a_needle_is_what_each_match_must_hold(regex: str, needle: str) -> None:
    assert needle_of(regex) == needle


@pytest.mark.parametrize("signature", signatures(), ids=lambda signature: signature.ref)
def test_no_needle_hides_a_match(signature: Any) -> None:
    for pattern in (*signature.patterns, *signature.details, *(signature.hang or ())):
        assert len(pattern.needle) > 1, f"{pattern.regex.pattern} is looked for in every line"
        for other in signatures():
            for line in other.excerpt:
                assert pattern.search(line) == pattern.regex.search(line) or (
                    pattern.search(line) is not None and pattern.regex.search(line) is not None
                )


@given(
    st.from_regex(
        r"[a-z]{1,4}(\?|\*|\+|\(ab\|c\)|\(de\)|\[xy\]|\.|\\d)?[a-z]{0,3}", fullmatch=True
    ),
    st.data(),
)
def test_what_matches_holds_the_needle(regex: str, data: st.DataObject) -> None:
    text = data.draw(st.from_regex(regex, fullmatch=True))
    assert needle_of(regex) in text
