"""Long work belongs to a visitor: it ends when they press Stop, start another, or leave."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Jobs:
    """The running jobs of visitors: one job a visitor, who is a Gradio session."""

    def __init__(self) -> None:
        self._running: dict[str, threading.Event] = {}
        self._lock = threading.Lock()

    @contextmanager
    def of(self, session: str | None) -> Iterator[Callable[[], bool]]:
        """Begins a job, and ends the one that the visitor had; yields what says whether it is to stop.

        Who leaves in the middle, by whatever error, ends it too: threads of it may still run.

        Args:
            session: The visitor's session; None for somebody who cannot come back to stop it.
        """
        ended = threading.Event()
        if session is not None:
            with self._lock:
                if earlier := self._running.get(session):
                    earlier.set()
                self._running[session] = ended
        try:
            yield ended.is_set
        except BaseException:
            ended.set()
            raise
        finally:
            with self._lock:
                if session is not None and self._running.get(session) is ended:
                    del self._running[session]

    def stop(self, session: str | None) -> None:
        """Ends a visitor's job, if there is one."""
        with self._lock:
            if session in self._running:
                self._running[session].set()
