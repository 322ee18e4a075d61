"""What is remembered, for whom, and for how long."""

import threading

from cbsae_hub.studio.server.jobs import Jobs
from cbsae_hub.studio.server.memory import Memory, Results


def test_the_oldest_are_forgotten_and_keys_are_not_guessed():
    memory = Memory(3)
    keys = [memory.keep(i) for i in range(3)]
    assert memory.get(keys[0]) == 0  # asked for, so it is young again
    keys.append(memory.keep(3))
    assert [memory.get(key) for key in keys] == [0, None, 2, 3]
    assert len(set(keys)) == 4 and all(len(key) >= 22 for key in keys)
    for bad in (None, 0, "", keys[0][:-1], keys[0] + "x", ["a"], {"a": 1}):
        assert memory.get(bad) is None


def test_results_are_computed_once_while_they_are_remembered():
    results, computed = Results(2), []

    def compute(name):
        return lambda: computed.append(name) or name.upper()

    for name in "abaca":
        assert results.of(name, compute(name)) == name.upper()
    assert computed == ["a", "b", "c"]
    assert results.of("b", compute("b")) == "B" and computed[-1] == "b", "b was forgotten for c"


def test_a_failure_is_not_remembered():
    results, tries = Results(2), []

    def fails_once():
        tries.append(1)
        if len(tries) == 1:
            raise OSError
        return "there"

    try:
        results.of("a", fails_once)
    except OSError:
        pass
    assert results.of("a", fails_once) == "there"


def test_a_visitors_new_job_ends_their_old_one_and_nobody_elses():
    jobs = Jobs()
    with jobs.of("me") as first, jobs.of("you") as yours:
        assert not first() and not yours()
        with jobs.of("me") as second:
            assert first() and not second() and not yours()
            jobs.stop("me")
            assert second() and not yours()
        jobs.stop("nobody")
        assert not yours()
    jobs.stop("me")  # nothing of hers is left to stop
    with jobs.of("me") as third:
        assert not third()
    with jobs.of(None) as nobodys:
        jobs.stop(None)
        assert not nobodys()


def test_many_visitors_at_once():
    memory, jobs, wrong = Memory(1000), Jobs(), []

    def visit(name):
        for i in range(50):
            with jobs.of(name) as stop:
                key = memory.keep((name, i))
                if memory.get(key) != (name, i) or stop():
                    wrong.append(name)

    threads = [threading.Thread(target=visit, args=(f"v{i}",)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_who_leaves_ends_their_job_also_without_a_session():
    jobs = Jobs()

    def work(session):
        with jobs.of(session) as stop:
            yield stop

    for session in (None, "visitor"):
        running = work(session)
        stop = next(running)
        assert not stop()
        running.close()  # as Gradio does it
        assert stop()
        (stop,) = work(session)
        assert not stop(), "what has come to its end was not stopped"
