"""Ask transformers what a model says, as a reference that is not vLLM."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from pytest_vllm.domain.content import Scored
from pytest_vllm.domain.errors import HostError, TargetError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

# A folder of its own: Python puts the folder of a script first on its path, and ours has an `http`.
_WORKER = Path(__file__).with_name("reference_worker")
_INSTALL = (
    "pip install 'pytest-vllm[golden-hf]', or name an interpreter that has torch and transformers "
    "with --python"
)
_MISSING = ("ModuleNotFoundError", "ImportError")


class TransformersReference:
    """A model in transformers, in a process of its own; leaving the block ends it.

    Args:
        python: Interpreter that has torch and transformers.
        folder: Model folder or Hub ID.
        dtype: Arithmetic, by torch's name.

    Raises:
        TargetError: The interpreter has no transformers, or they cannot load the model.
    """

    def __init__(self, python: str, *, folder: str, dtype: str) -> None:
        command = [python, str(_WORKER), folder, dtype]
        try:
            self._process = subprocess.Popen(  # noqa: S603 - named by the user
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8"
            )
        except OSError as error:
            raise TargetError(
                f"--python: cannot run {python}: {error.strerror}", advice="name an interpreter"
            ) from None
        told = self._read()
        if "error" in told:
            self.close()
            lacking = str(told["error"]).startswith(_MISSING)
            raise TargetError(
                f"transformers cannot load {folder}: {told['error']}",
                advice=_INSTALL if lacking else "check --model and --dtype",
            )
        self.versions: Mapping[str, str] = told["ready"]
        self.max_model_len: int | None = int(self._ask("limit"))

    def limited(self, max_model_len: int | None) -> Self:
        """Act as a server with a shorter context; `None` keeps the model's own."""
        self.max_model_len = max_model_len or self.max_model_len
        return self

    def tokenize(self, text: str, *, special: bool) -> list[int]:
        """Return the token IDs of a text."""
        return [int(id_) for id_ in self._ask("tokenize", text=text, special=special)]

    def render(self, messages: Sequence[Mapping[str, str]]) -> list[int] | None:
        """Return what the chat template makes of messages, `None` when there is no template."""
        ids: list[int] | None = self._ask("render", messages=[dict(one) for one in messages])
        return ids

    def score(self, ids: list[int], *, last: int, top: int) -> tuple[Scored, ...]:
        """Return the last tokens of a prompt as scored by the model."""
        found = self._ask("score", ids=ids, last=last, top=top)
        return tuple(
            Scored(
                id=id_,
                logprob=logprob,
                best=best[0][0],
                best_logprob=best[0][1],
                top=dict(best),
            )
            for id_, (logprob, best) in zip(ids[-last:], found, strict=True)
        )

    def close(self) -> None:
        """End the process."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._process.terminate()
        self._process.wait()

    def __enter__(self) -> Self:
        """Give itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """End the process."""
        self.close()

    def _ask(self, ask: str, **question: Any) -> Any:
        if self._process.stdin is None:
            raise HostError("the reference has ended")
        self._process.stdin.write(json.dumps({"ask": ask, **question}) + "\n")
        self._process.stdin.flush()
        told = self._read()
        if "error" in told:
            raise HostError(f"the reference failed: {told['error']}")
        return told["answer"]

    def _read(self) -> dict[str, Any]:
        line = self._process.stdout.readline() if self._process.stdout is not None else ""
        if not line:
            code = self._process.wait()
            raise HostError(f"the reference ended with exit code {code}; its own words are above")
        told: dict[str, Any] = json.loads(line)
        return told
