"""`python -m tests.benchmarks.sampler FILE ARGUMENTS…`: the command line, and where its processor time goes.

SIGUSR2 begins and ends the measurement; at its end FILE is written. Every 2 ms of processor time the
stacks of all threads are noted, each with the processor time that its thread has used since: unlike
cProfile this costs little, sees every thread, and makes no function look dearer than another. Set
COUNTS=1 to count calls with cProfile instead (main thread only; times are inflated by it).

What it never does: change what it measures more than a few per cent.
"""

from __future__ import annotations

import cProfile
import io
import os
import pstats
import signal
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

from telephony.cli import main

EVERY = 0.002
MOST = 45

Stack = tuple[CodeType, ...]


class Sampler:
    """Processor time by stack, leaf first."""

    def __init__(self) -> None:
        self.by_stack: Counter[tuple[str, Stack]] = Counter()
        self._used: dict[int, int] = {}

    def begin(self) -> None:
        for ident in sys._current_frames():
            self._used[ident] = time.clock_gettime_ns(time.pthread_getcpuclockid(ident))
        signal.signal(signal.SIGPROF, self._sample)
        signal.setitimer(signal.ITIMER_PROF, EVERY, EVERY)

    def end(self) -> None:
        signal.setitimer(signal.ITIMER_PROF, 0)

    def _sample(self, _number: int, here: FrameType | None) -> None:
        main_thread = threading.main_thread().ident
        for ident, top in sys._current_frames().items():
            used = time.clock_gettime_ns(time.pthread_getcpuclockid(ident))
            spent = used - self._used.get(ident, 0)
            self._used[ident] = used
            if spent > 0:
                frame: FrameType | None = here if ident == main_thread else top
                name = "main" if ident == main_thread else _thread_name(ident)
                self.by_stack[name, tuple(_codes(frame))] += spent

    def write(self, file: Path) -> None:
        total = sum(self.by_stack.values()) or 1
        groups: dict[str, Counter[str]] = defaultdict(Counter)
        for (thread, stack), spent in self.by_stack.items():
            groups["thread"][thread] += spent
            groups["library at the leaf"][_library(stack[0])] += spent
            groups["function, itself"][_function(stack[0])] += spent
            ours = [code for code in stack if _library(code) == "telephony"]
            groups["room (deepest frame of ours)"][_room(ours[0]) if ours else "none"] += spent
            groups["deepest function of ours, with all below it"][
                _function(ours[0]) if ours else f"none ({thread})"
            ] += spent
            for code in set(stack):
                groups["function, with all below it"][_function(code)] += spent
                if _library(code) == "telephony":
                    groups["functions of ours, with all below them"][_function(code)] += spent
        with file.open("w") as out:
            out.write(f"{total / 1e9:.2f} s of processor time\n")
            for title, group in groups.items():
                out.write(f"\nby {title}\n")
                for name, spent in group.most_common(MOST):
                    out.write(f"  {100 * spent / total:5.1f} %  {name}\n")


class Counting:
    """cProfile behind the same face."""

    def __init__(self) -> None:
        self._profile = cProfile.Profile()

    def begin(self) -> None:
        self._profile.enable()

    def end(self) -> None:
        self._profile.disable()

    def write(self, file: Path) -> None:
        text = io.StringIO()
        stats = pstats.Stats(self._profile, stream=text)
        for order in ("ncalls", "tottime", "cumulative"):
            stats.sort_stats(order).print_stats(MOST)
        stats.sort_stats("ncalls").print_stats("/telephony/")
        stats.print_callers("store.py.*(transaction|reading)|unit.py.*__init__")
        file.write_text(text.getvalue())


def _codes(frame: FrameType | None) -> Iterable[CodeType]:
    while frame is not None:
        yield frame.f_code
        frame = frame.f_back


def _thread_name(ident: int) -> str:
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    return names.get(ident, "?").rstrip("0123456789-_")


def _library(code: CodeType) -> str:
    parts = Path(code.co_filename).parts
    for mark in ("site-packages", f"python{sys.version_info.major}.{sys.version_info.minor}"):
        if mark in parts:
            return parts[parts.index(mark) + 1].removesuffix(".py")
    return "telephony" if "telephony" in parts else parts[0]


def _room(code: CodeType) -> str:
    parts = Path(code.co_filename).parts
    return "/".join(parts[parts.index("telephony") + 1 :])


def _function(code: CodeType) -> str:
    parts = Path(code.co_filename).parts
    start = max(
        (place for place, part in enumerate(parts) if part in ("site-packages", "telephony")), default=-1
    )
    return f"{'/'.join(parts[start + 1 :]) if start >= 0 else parts[-1]}:{code.co_qualname}"


def switch(profile: Any, file: Path) -> Callable[[int, FrameType | None], None]:
    """A handler that begins at the first signal and ends at the second."""
    running = False

    def handler(_number: int, _frame: FrameType | None) -> None:
        nonlocal running
        if running:
            profile.end()
            # Whoever waits for the file finds it whole.
            unfinished = file.with_suffix(".part")
            profile.write(unfinished)
            unfinished.rename(file)
        else:
            profile.begin()
        running = not running

    return handler


if __name__ == "__main__":
    target = Path(sys.argv[1])
    sys.argv = ["telephony", *sys.argv[2:]]
    signal.signal(signal.SIGUSR2, switch(Counting() if os.environ.get("COUNTS") else Sampler(), target))
    main()
