"""A disk that is full when the evidence is written: the host's fault, in words, and no verdict."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest

OWN = """
from pytest_vllm import check, suite
pytestmark = suite('own')

@check('own.good')
def test_good():
    '''It MUST be good.'''
"""
MOUNT = 'mount -t tmpfs -o "size=$1" tmpfs "$2" && shift 2 && exec "$@"'


def run_on_a_disk_of(size: str, pytester: pytest.Pytester) -> pytest.RunResult:
    """Run a check whose evidence goes to a real file system that only this run sees."""
    pytester.makepyfile(test_own=OWN)
    disk = pytester.mkdir("disk")
    words = ["--vllm-url=http://127.0.0.1:9", "test_own.py", f"--vllm-artifacts={disk}/runs"]
    pytest_ = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *words]
    return pytester.run("unshare", "--mount", "sh", "-c", MOUNT, "sh", size, str(disk), *pytest_)


def test_evidence_that_cannot_be_written_is_no_verdict(pytester: pytest.Pytester) -> None:
    """As a traceback it would end with 1, which is a REJECT to whoever reads the exit code."""
    result = run_on_a_disk_of("8k", pytester)
    text = result.stdout.str() + result.stderr.str()
    assert result.ret == 75
    result.stdout.fnmatch_lines(
        [
            "vllm: no verdict: cannot write evidence into *: No space left on device",
            "  fix: make room, or name another folder with --vllm-artifacts",
        ]
    )
    assert text.count("No space left on device") == 1  # tried once
    assert "Traceback" not in text
    assert "INTERNALERROR" not in text


def test_a_folder_that_cannot_be_made_is_a_wrong_command(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_own=OWN)
    (pytester.path / "file").write_text("in the way")
    result = pytester.runpytest_subprocess(
        "--vllm-url=http://127.0.0.1:9", "test_own.py", "--vllm-artifacts=file"
    )
    assert result.ret == 4
    result.stdout.fnmatch_lines(
        ["vllm: no verdict: --vllm-artifacts: cannot make a folder in *file: *"]
    )
    assert "Traceback" not in result.stdout.str() + result.stderr.str()


def test_the_same_disk_with_room_holds_the_evidence(pytester: pytest.Pytester) -> None:
    result = run_on_a_disk_of("8m", pytester)
    assert result.ret == 0
    assert "no verdict" not in result.stdout.str()
