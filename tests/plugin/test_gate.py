"""The gate cannot be talked into a verdict: what is not shown stays open."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pytest_vllm.domain.record import from_json

if TYPE_CHECKING:
    from pathlib import Path

HEAD = "import pytest\nfrom pytest_vllm import MUST, check, suite\npytestmark = suite('own')\n"
GOOD = "@check('own.good')\ndef test_good():\n    '''It MUST be good.'''\n"
URL = "--vllm-url=http://127.0.0.1:9"


def _own(pytester: pytest.Pytester, *parts: str) -> Path:
    path: Path = pytester.makepyfile(test_own=HEAD + "\n".join(parts))
    return path


@pytest.mark.parametrize(
    ("parts", "arguments", "code", "words"),
    [
        ((GOOD,), (), 0, "PROMOTE"),
        (
            (GOOD, "def test_plain():\n    assert 0\n"),
            (),
            1,
            "failed tests that are no checks: 1",
        ),
        ((GOOD + "    pytest.skip('x')\n",), (), 75, "1 MUST check has no result"),
        ((GOOD + "    undefined_name\n",), (), 75, "NameError"),
        ((GOOD + "    raise KeyError('usage')\n",), (), 1, "KeyError"),
        ((GOOD + "    pytest.exit('enough', returncode=0)\n",), (), 0, "enough"),
        ((GOOD + "    assert 0\n",), ("-x",), 1, "REJECT"),
        ((GOOD,), ("-k", "nothing"), 5, "deselected"),
    ],
    ids=["good", "plain-fails", "skipped", "own-bug", "odd-reply", "exit", "maxfail", "none"],
)
def test_what_a_run_ends_in(
    pytester: pytest.Pytester,
    parts: tuple[str, ...],
    arguments: tuple[str, ...],
    code: int,
    words: str,
) -> None:
    """Checks that ask for no server are judged like all others."""
    path = _own(pytester, *parts)
    result = pytester.runpytest_subprocess(str(path), URL, *arguments)
    text = result.stdout.str()
    assert words in text
    if "exit" not in parts[0]:
        assert result.ret == code, text
    else:
        assert "INCONCLUSIVE" in text


@pytest.mark.parametrize("workers", [(), ("-n", "1")], ids=["alone", "xdist"])
@pytest.mark.parametrize(
    "arguments", [(), ("--continue-on-collection-errors",)], ids=["stop", "continue"]
)
def test_a_file_that_cannot_be_collected_leaves_the_verdict_open(
    pytester: pytest.Pytester, workers: tuple[str, ...], arguments: tuple[str, ...]
) -> None:
    """Its checks have no result, whatever the other files say."""
    _own(pytester, GOOD)
    pytester.makepyfile(test_broken="import no_such_module")
    names = ("test_own.py", "test_broken.py")
    result = pytester.runpytest_subprocess(*names, URL, *arguments, *workers)
    assert "= PROMOTE =" not in result.stdout.str()
    assert result.ret in (2, 75), result.stdout.str()
    if arguments:
        (written,) = pytester.path.glob(".vllm/*/run.json")
        reasons = from_json(written.read_text(), where="run.json").verdict.reasons
        assert any("errors during the collection of test_broken.py" in r for r in reasons)


def test_two_checks_may_not_share_an_id(pytester: pytest.Pytester) -> None:
    path = _own(pytester, GOOD, GOOD.replace("test_good", "test_other"))
    result = pytester.runpytest_subprocess(str(path), URL)
    assert result.ret == 4
    assert "share the check ID 'own.good'" in result.stdout.str() + result.stderr.str()


def test_a_malformed_check_is_a_usage_error(pytester: pytest.Pytester) -> None:
    path = _own(pytester, GOOD.replace("'own.good'", "'own.good', level='must'"))
    result = pytester.runpytest_subprocess(str(path), URL)
    assert result.ret != 0
    assert "needs level=MUST, SHOULD or INFO" in result.stdout.str() + result.stderr.str()


def test_a_key_in_an_argument_is_not_shown(pytester: pytest.Pytester) -> None:
    path = _own(pytester, GOOD)
    result = pytester.runpytest_subprocess(str(path), URL, "--vllm-serve-arg=--api-key=topsecret42")
    assert "topsecret42" not in result.stdout.str()
    for file in pytester.path.glob(".vllm/*/*"):
        assert "topsecret42" not in file.read_text()
