"""The reaper: it ends with its run, outlives its death, and takes away what was named to it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from contextlib import suppress
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from pytest_vllm.adapters.backends import session as session_module
from pytest_vllm.adapters.backends.lockfile import hold, let_go
from pytest_vllm.adapters.backends.reaper import Reaper
from pytest_vllm.adapters.backends.session import Session

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

LIMIT_S = 20.0
OWNER = """
    import json, os, subprocess, sys, time
    from pathlib import Path
    from pytest_vllm.adapters.backends.lockfile import hold
    from pytest_vllm.adapters.backends.reaper import Reaper
    from pytest_vllm.adapters.backends.session import Session

    marker, folder = sys.argv[1], Path(sys.argv[2])
    reaper = Reaper(folder / "reaper.log")
    reaper.session(Session(sid=0, marker=marker))
    (folder / "scratch").mkdir()
    (folder / "scratch" / "file").touch()
    reaper.folder(folder / "scratch")
    held = hold(folder / "lock")
    reaper.lock(folder / "lock")
    name, _, value = marker.partition("=")
    code = "print(1, flush=True); import time; time.sleep(600)"
    if "deaf" in sys.argv:
        code = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); " + code
    server = subprocess.Popen(
        [sys.executable, "-c", code],
        env={**os.environ, name: value},
        start_new_session=True,
        stdout=subprocess.PIPE,
    )
    server.stdout.readline()
    reaper.session(Session(sid=server.pid, marker=marker))
    if "keep" in sys.argv:
        reaper.keep()
    if "fork" in sys.argv and os.fork() == 0:
        time.sleep(600)
    print(json.dumps([reaper.pid, server.pid]), flush=True)
    time.sleep(600)
"""


def until(condition: Callable[[], object]) -> None:
    """Poll until something holds, and fail when it does not."""
    pause = threading.Event()
    end = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < end, "waited too long"
        pause.wait(0.02)


def runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


class Run:
    """A process that owns a reaper, a server, a folder and a lock."""

    def __init__(self, folder: Path, *words: str) -> None:
        self.marker = f"PYTEST_VLLM_LAUNCH=test-{folder.name}-{os.getpid()}"
        code = textwrap.dedent(OWNER)
        self.process = subprocess.Popen(
            [sys.executable, "-c", code, self.marker, str(folder), *words],
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        assert self.process.stdout is not None
        self.reaper, self.server = json.loads(self.process.stdout.readline())

    def end(self) -> None:
        """Leave nothing, whatever the test came to."""
        if self.process.stdout is not None:
            self.process.stdout.close()
        for group in (self.process.pid, self.server):
            with suppress(ProcessLookupError):
                os.killpg(group, signal.SIGKILL)
        self.process.wait()


@pytest.fixture
def start(tmp_path: Path, request: pytest.FixtureRequest) -> Callable[..., Run]:
    def begin(*words: str) -> Run:
        run = Run(tmp_path, *words)
        request.addfinalizer(run.end)
        return run

    return begin


@pytest.mark.parametrize("words", [(), ("deaf",), ("fork",)], ids=["plain", "deaf", "forked"])
def test_nothing_outlives_a_run_that_is_killed(
    start: Callable[..., Run], tmp_path: Path, words: tuple[str, ...]
) -> None:
    """Also a server that ignores SIGTERM, and where a child of the run still holds the pipe."""
    run = start(*words)
    run.process.kill()
    run.process.wait()
    until(lambda: not runs(run.reaper))
    assert not runs(run.server)
    # A lock that a forked child still holds is left to the sweep of the next run.
    left = ["lock", "reaper.log"] if "fork" in words else ["reaper.log"]
    assert sorted(path.name for path in tmp_path.iterdir()) == left
    log = (tmp_path / "reaper.log").read_text()
    assert f"removed process {run.server}" in log
    assert "removed folder" in log
    assert "left:" not in log


def test_signals_do_not_stop_the_reaper(start: Callable[..., Run]) -> None:
    """A group that is signalled as a whole does not reach it, and it ignores its own."""
    run = start()
    assert os.getsid(run.reaper) == run.reaper
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        os.kill(run.reaper, number)
    os.killpg(run.process.pid, signal.SIGKILL)
    run.process.wait()
    until(lambda: not runs(run.server))
    until(lambda: not runs(run.reaper))


def test_a_kept_server_stays(start: Callable[..., Run], tmp_path: Path) -> None:
    run = start("keep")
    until(lambda: not runs(run.reaper))
    run.process.kill()
    run.process.wait()
    assert runs(run.server)
    assert (tmp_path / "scratch").is_dir()


def test_a_run_that_cleaned_up_leaves_no_reaper_and_no_log(tmp_path: Path) -> None:
    reaper = Reaper(tmp_path / "reaper.log")
    reaper.session(Session(sid=0, marker="PYTEST_VLLM_LAUNCH=test-nobody"))
    (tmp_path / "mine").mkdir()
    reaper.folder(tmp_path / "mine")
    reaper.done()
    assert not runs(reaper.pid)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine"]
    reaper.done()  # a second end says nothing and does no harm


def test_a_lock_that_another_run_has_taken_meanwhile_stays(tmp_path: Path) -> None:
    reaper = Reaper(tmp_path / "reaper.log")
    theirs = hold(tmp_path / "theirs")
    assert theirs is not None
    assert hold(tmp_path / "theirs") is None
    (tmp_path / "free").touch()
    reaper.lock(tmp_path / "theirs")
    reaper.lock(tmp_path / "free")
    reaper.abandon()
    until((tmp_path / "reaper.log").exists)
    until(lambda: not runs(reaper.pid))
    assert not (tmp_path / "free").exists()
    assert (tmp_path / "theirs").exists()
    let_go(tmp_path / "theirs", theirs)
    assert not (tmp_path / "theirs").exists()


def test_the_reaper_sees_no_secret(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_do_not_pass_on")
    reaper = Reaper(tmp_path / "reaper.log")
    try:
        assert b"hf_do_not" not in Path(f"/proc/{reaper.pid}/environ").read_bytes()
    finally:
        reaper.done()


def test_a_member_that_left_the_session_and_its_environment_is_found() -> None:
    """It descends from a member; a stranger does not."""
    code = "import os, sys, subprocess, time\n"
    code += "subprocess.Popen([sys.executable, '-c', 'print(1, flush=True); import time; "
    code += "time.sleep(600)'], env={}, start_new_session=True)\ntime.sleep(600)"
    marker = f"PYTEST_VLLM_LAUNCH=test-descends-{os.getpid()}"
    name, _, value = marker.partition("=")
    with subprocess.Popen(
        [sys.executable, "-c", code],
        env={**os.environ, name: value},
        stdout=subprocess.PIPE,
        start_new_session=True,
    ) as parent:
        assert parent.stdout is not None
        parent.stdout.readline()
        session = Session(sid=0, marker=marker)
        (child,) = psutil.Process(parent.pid).children()
        assert session.members() == tuple(sorted((parent.pid, child.pid)))
        assert session.end(grace_s=LIMIT_S, limit_s=LIMIT_S) == ()
    assert not runs(child.pid)


def test_shared_memory_goes_with_those_who_used_it() -> None:
    """Killed processes leave theirs in /dev/shm; what a stranger still uses stays."""
    marker = f"PYTEST_VLLM_LAUNCH=test-shm-{os.getpid()}"
    name, _, value = marker.partition("=")
    code = (
        "import sys, time; from multiprocessing.shared_memory import SharedMemory as M\n"
        "mine, theirs = M(create=True, size=64), M(sys.argv[1])\n"
        "print(mine.name, flush=True); time.sleep(600)"
    )
    theirs = SharedMemory(create=True, size=64)
    with subprocess.Popen(
        [sys.executable, "-c", code, theirs.name],
        env={**os.environ, name: value},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        mine = Path("/dev/shm") / process.stdout.readline().strip()  # noqa: S108
        assert mine.exists()
        end = time.monotonic() + LIMIT_S
        trackers: list[psutil.Process] = []
        while not trackers:  # it may not have become itself yet
            assert time.monotonic() < end, "there is no resource tracker"
            members = [psutil.Process(pid) for pid in Session(sid=0, marker=marker).members()]
            trackers = [one for one in members if "resource_tracker" in " ".join(one.cmdline())]
        trackers[0].kill()  # first, so that nobody cleans up
        assert Session(sid=0, marker=marker).kill(limit_s=LIMIT_S) == ()
    assert not mine.exists()
    assert (Path("/dev/shm") / theirs.name).exists()  # noqa: S108
    theirs.close()
    theirs.unlink()


def test_a_server_can_write_its_log_until_it_is_stopped(tmp_path: Path) -> None:
    """Else it would fail of that, at any moment, before the reaper can look at it."""
    marker = f"PYTEST_VLLM_LAUNCH=test-log-{os.getpid()}"
    server = (
        "import os, sys\n"
        "os.set_blocking(1, False)\n"
        "while True:\n"
        "    try: os.write(1, b'x')\n"
        "    except BlockingIOError: pass\n"
        "    except BrokenPipeError: open(sys.argv[1], 'w').close(); sys.exit()\n"
    )
    owner = textwrap.dedent("""
        import os, subprocess, sys, time
        from pathlib import Path
        from pytest_vllm.adapters.backends.reaper import Reaper
        from pytest_vllm.adapters.backends.session import Session

        code, folder, marker = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
        reaper = Reaper(folder / "reaper.log")
        reaper.session(Session(sid=0, marker=marker))
        reading, writing = os.pipe()
        reaper.log_pipe(reading)

        def held():
            try:
                files = list(Path(f"/proc/{reaper.pid}/fd").iterdir())
                return os.readlink(f"/proc/self/fd/{reading}") in map(os.readlink, files)
            except FileNotFoundError:  # closed since
                return False

        while not held():
            time.sleep(0.01)
        name, _, value = marker.partition("=")
        words = [sys.executable, "-c", code, str(folder / "broke")]
        subprocess.Popen(words, stdout=writing, env={name: value}, start_new_session=True)
        os.close(writing)
        os.read(reading, 1)
        print(reaper.pid, flush=True)
        time.sleep(600)
    """)
    with subprocess.Popen(
        [sys.executable, "-c", owner, server, str(tmp_path), marker], stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        reaper = int(process.stdout.readline())
        process.kill()
    until(lambda: not runs(reaper))
    assert Session(sid=0, marker=marker).members() == ()
    assert "removed process" in (tmp_path / "reaper.log").read_text()
    assert not (tmp_path / "broke").exists()


@pytest.mark.parametrize("how", ["kill", "end"])
def test_shared_memory_that_is_being_made_goes_too(how: str) -> None:
    """A signal is taken only after the system call that makes the segment."""
    marker = f"PYTEST_VLLM_LAUNCH=test-making-{how}-{os.getpid()}"
    name, _, value = marker.partition("=")
    segment = f"psm_making_{os.getpid()}"
    code = (  # without Python's resource tracker, which may have been killed before
        "import os, sys, _posixshmem as shm\n"
        "flags = os.O_CREAT | os.O_EXCL | os.O_RDWR\n"
        "for child in range(3): os.fork()\n"
        "name = f'/{sys.argv[1]}_{os.getpid()}'\n"
        "print(flush=True)\n"
        "while True:\n"
        "    held = shm.shm_open(name, flags, mode=0o600)\n"
        "    shm.shm_unlink(name)\n"
        "    os.close(held)\n"
    )
    for _ in range(6):
        with subprocess.Popen(
            [sys.executable, "-c", code, segment],
            env={**os.environ, name: value},
            stdout=subprocess.PIPE,
            start_new_session=True,
        ) as process:
            assert process.stdout is not None
            for _ in range(8):
                process.stdout.readline()
            session = Session(sid=0, marker=marker)
            if how == "kill":
                assert session.kill(limit_s=LIMIT_S) == ()
            else:
                assert session.end(grace_s=LIMIT_S, limit_s=LIMIT_S) == ()
        left = list(Path("/dev/shm").glob(f"{segment}_*"))  # noqa: S108
        for path in left:
            path.unlink()
        assert left == []


@pytest.mark.parametrize("how", ["kill", "end"])
def test_shared_memory_of_a_child_that_a_look_came_too_early_for_goes_too(
    monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """The processes are listed in the middle of a fork, and the parent is seen to stand still."""
    marker = f"PYTEST_VLLM_LAUNCH=test-forking-{how}-{os.getpid()}"
    name, _, value = marker.partition("=")
    segment = Path(f"/dev/shm/psm_forking_{how}_{os.getpid()}")  # noqa: S108
    child = (
        "import os, sys, time, _posixshmem as shm\n"
        "print(os.getpid(), flush=True); os.read(0, 1)\n"
        "shm.shm_open('/' + sys.argv[1], os.O_CREAT | os.O_RDWR, mode=0o600); time.sleep(600)"
    )
    parent = "import subprocess, sys, time\n"
    parent += "subprocess.Popen([sys.executable, '-c', *sys.argv[1:]]); time.sleep(600)"
    with subprocess.Popen(
        [sys.executable, "-c", parent, child, segment.name],
        env={**os.environ, name: value},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        forked, release = int(process.stdout.readline()), process.stdin
        listed, send, early = session_module.all_pids, session_module._send, [True]

        def list_too_early() -> list[int]:
            found = [pid for pid in listed() if not early or pid != forked]
            if psutil.Process(process.pid).status() == psutil.STATUS_STOPPED:
                early.clear()  # the next look sees all
            return found

        def make_it_before_the_end(number: signal.Signals, pids: Collection[int]) -> None:
            if number != signal.SIGSTOP and not release.closed:
                release.write(b"1")
                release.close()
                states = (psutil.STATUS_STOPPED, psutil.STATUS_ZOMBIE)
                until(lambda: segment.exists() or psutil.Process(forked).status() in states)
            send(number, pids)

        monkeypatch.setattr(session_module, "all_pids", list_too_early)
        monkeypatch.setattr(session_module, "_send", make_it_before_the_end)
        session = Session(sid=0, marker=marker)
        if how == "kill":
            assert session.kill(limit_s=LIMIT_S) == ()
        else:
            assert session.end(grace_s=LIMIT_S, limit_s=LIMIT_S) == ()
        assert not early
        assert release.closed
    left = segment.exists()
    segment.unlink(missing_ok=True)
    assert not left


@pytest.mark.parametrize("how", ["kill", "end"])
def test_who_is_known_by_a_dead_parent_alone_is_waited_for(how: str) -> None:
    """An engine writes a title over its environment, and its parent may end long before it."""
    child = (
        "import signal, sys, time; from multiprocessing.shared_memory import SharedMemory as M\n"
        "signal.signal(signal.SIGTERM, lambda *_: (time.sleep(0.5), sys.exit()))\n"
        "held = bytearray(400_000_000)  # takes a while to be given back, also after SIGKILL\n"
        "segment = M(create=True, size=64)\n"
        "from multiprocessing.resource_tracker import unregister\n"
        "unregister(segment._name, 'shared_memory')\n"
        "print(segment.name, flush=True); time.sleep(600)"
    )
    parent = "import subprocess, sys, time\nsubprocess.Popen([sys.executable, '-c', sys.argv[1]], "
    parent += "env={}, start_new_session=True)\ntime.sleep(600)"
    marker = f"PYTEST_VLLM_LAUNCH=test-orphan-{how}-{os.getpid()}"
    name, _, value = marker.partition("=")
    with subprocess.Popen(
        [sys.executable, "-c", parent, child],
        env={**os.environ, name: value},
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        segment = Path("/dev/shm") / process.stdout.readline().strip()  # noqa: S108
        assert segment.is_file()
        session = Session(sid=0, marker=marker)
        (orphan,) = (one.pid for one in psutil.Process(process.pid).children())
        if how == "kill":
            assert session.kill(limit_s=LIMIT_S) == ()
        else:
            assert session.end(grace_s=LIMIT_S, limit_s=LIMIT_S) == ()
        assert not runs(orphan)
    assert not segment.exists()
