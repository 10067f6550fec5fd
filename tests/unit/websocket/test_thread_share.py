"""Whether a thread was kept waiting: one that sleeps or computes was not, one beside a crowd is."""

import threading
import time

from backend.app.websocket.thread_share import ThreadShare

WINDOW_SECONDS = 0.2


def test_a_thread_that_sleeps_or_computes_was_not_kept_waiting() -> None:
    """Sleeping it wants nothing; computing it gets its share."""
    entered, release = threading.Event(), threading.Event()
    found: list[int] = []

    def sleep() -> None:
        found.append(threading.get_native_id())
        entered.set()
        release.wait(10)

    thread = threading.Thread(target=sleep)
    thread.start()
    entered.wait(10)
    share = ThreadShare(found[0])
    before = share.ran_seconds()
    time.sleep(WINDOW_SECONDS)
    assert not share.was_kept_waiting(before, WINDOW_SECONDS)
    release.set()
    thread.join()
    assert not share.was_kept_waiting(before, WINDOW_SECONDS)  # It is gone.
    own = ThreadShare(threading.get_native_id())
    assert own.ran_seconds() > 0


def test_a_thread_that_gets_nothing_was_kept_waiting() -> None:
    """It wants to run (it asks itself), and had no time of its own in a window that it slept through."""
    own = ThreadShare(threading.get_native_id())
    before = own.ran_seconds()
    time.sleep(WINDOW_SECONDS)
    assert own.was_kept_waiting(before, WINDOW_SECONDS)
    end = time.monotonic() + 10
    while own.ran_seconds() - before < WINDOW_SECONDS and time.monotonic() < end:
        sum(range(1000))
    assert not own.was_kept_waiting(before, WINDOW_SECONDS)


def test_without_proc_nobody_is_excused() -> None:
    """Where the system does not tell, the watchdog judges by time alone."""
    nobody = ThreadShare(-1)
    assert nobody.ran_seconds() == 0
    assert not nobody.was_kept_waiting(0, 1)
