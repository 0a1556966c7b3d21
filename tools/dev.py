"""The verbs of `./dev`, run in the tool environment that it makes."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from tools.demo import demo
from tools.provision.__main__ import base_interpreter, guarded
from tools.provision.__main__ import main as provision
from tools.provision.everything import make_everything
from tools.provision.package import uv_environment, uv_program
from tools.provision.place import say

ROOT = Path(__file__).resolve().parent.parent
TOX_VERBS = ("lint", "types", "docs", "packaging", "peers", "benchmarks", "nightly")
NEED_PARTS = ("packaging", "peers", "benchmarks", "nightly")
USAGE = f"usage: ./dev demo|test|{'|'.join(TOX_VERBS)}|provision ... (./dev --help)"


def main(arguments: list[str]) -> int:
    """Do one verb; return its exit code."""
    verb, rest = arguments[0], arguments[1:]
    os.environ.pop("PYTHONPATH", None)  # it led here; the programs that we run must not see it
    if verb == "demo":
        return guarded(lambda: demo(rest, root=ROOT))
    if verb == "provision":
        return provision(rest)
    if verb == "test":
        return guarded(lambda: test(rest))
    if verb in TOX_VERBS:
        needs_parts = verb in NEED_PARTS
        # what follows is for pytest, so what is compared with others runs only without it
        whole = verb == "nightly" and not rest
        environments = "nightly,peers,benchmarks" if whole else verb
        return guarded(lambda: tox(environments, rest, parts=_parts() if needs_parts else {}))
    print(f"error: unknown verb {verb!r}. {USAGE}", file=sys.stderr)
    return 4


def test(rest: list[str]) -> int:
    """Provision what the tests need, then run all of them, or those named, with this Python."""
    ours = "py{}{}".format(*sys.version_info[:2])
    # what is named runs in one process, whatever it is
    return tox(ours if rest else f"parts,{ours}", rest, parts=_parts())


def tox(environments: str, rest: list[str], *, parts: dict[str, str]) -> int:
    """Become tox for some environments; the rest of the arguments goes to their programs."""
    os.chdir(ROOT)
    os.environ.update(parts)
    os.environ.update(uv_environment())
    # uv trips over pyenv's shims, so the interpreters' own folders come first
    shims = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    others = sorted(shims.glob("versions/3.*/bin"), reverse=True)
    first = [base_interpreter().parent, uv_program().parent, *others]
    os.environ["PATH"] = os.pathsep.join([*map(str, first), os.environ.get("PATH", "")])
    argv = [sys.executable, "-m", "tox", "run", "-e", environments]
    sys.stdout.flush()
    os.execv(sys.executable, [*argv, *(["--", *rest] if rest else [])])  # noqa: S606 - become it


def _parts() -> dict[str, str]:
    """Make what the tests need: built, not pulled, where this user can build."""
    is_root = os.geteuid() == 0
    pull = "never" if is_root else "auto"
    made = make_everything(python=base_interpreter(), install=is_root, pull=pull)
    for name, value in made.items():
        say("tests", f"{name}={value}")
    return made


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
