"""A pool of workers that die, hang, dawdle and come late."""

import threading
import time

import pytest

from flowgrpo.core.errors import UserError
from flowgrpo.training.fleet.pool import MOST_LOSSES, Lost, Pool

SOON = 20.0


class Squares:
    """A worker that squares, after it did `first` with the job, and is ready after `begin`."""

    def __init__(self, first=lambda job: None, begin=lambda: None):
        self.first, self.begin, self.gone = first, begin, threading.Event()

    def ready(self):
        self.begin()

    def ask(self, job):
        self.first(job)
        return job * job

    def stop(self):
        self.gone.set()


@pytest.fixture
def pool():
    made = []

    def make(start, count):
        made.append(Pool("worker", start, count))
        return made[-1]

    yield make
    for one in made:
        one.close()


def squares(pool, jobs):
    return [future.result(SOON) for future in [pool.submit(job) for job in jobs]]


@pytest.mark.parametrize("count", [1, 3])
def test_every_job_is_done_and_answers_belong_to_their_jobs(pool, count):
    assert squares(pool(lambda number: Squares(), count), range(20)) == [n * n for n in range(20)]


def test_the_job_of_a_worker_that_dies_is_done_by_another(pool, capsys):
    died = []

    def dies_once(job):
        if job == 5 and not died:
            died.append(job)
            raise Lost("died")

    one = pool(lambda number: Squares(dies_once), 2)
    assert squares(one, range(8)) == [n * n for n in range(8)]
    assert one.lost == 1
    assert "died; its work goes to another one" in capsys.readouterr().err


def test_a_lone_worker_that_dies_is_started_anew(pool):
    started, died = [], []

    def start(number):
        started.append(number)
        return Squares(lambda job: died or died.append(job) or lose())

    def lose():
        raise Lost("died")

    assert squares(pool(start, 1), [3]) == [9]
    assert started == [0, 0]


def test_workers_that_are_never_there_end_the_pool(pool):
    def start(number):
        raise Lost("died")

    with pytest.raises(UserError, match=f"{MOST_LOSSES} workers are gone before they could be asked, the last because it died"):
        pool(start, 1).submit(1).result(SOON)


def test_a_job_that_kills_its_workers_is_named_as_the_cause(pool):
    def dies(job):
        if job == 1:
            raise Lost("died")

    one = pool(lambda number: Squares(dies), 2)
    bad, good = one.submit(1), one.submit(2)
    with pytest.raises(UserError, match=f"{MOST_LOSSES} workers that had the same work are gone, the last because it died"):
        bad.result(SOON)
    assert good.result(SOON) == 4


def test_an_error_of_the_job_is_its_own_and_the_worker_goes_on(pool):
    def refuses(job):
        if job == 1:
            raise UserError("no ones")

    one = pool(lambda number: Squares(refuses), 1)
    bad, good = one.submit(1), one.submit(2)
    with pytest.raises(UserError, match="no ones"):
        bad.result(SOON)
    assert good.result(SOON) == 4
    assert one.lost == 0


def test_work_begins_with_the_first_worker_and_another_may_join_later(pool):
    joins, by = threading.Event(), set()

    def start(number):
        if number == 1:
            joins.wait(SOON)
        return Squares(lambda job: by.add(number) or time.sleep(0.01))

    one = pool(start, 2)
    assert squares(one, range(3)) == [0, 1, 4]
    assert by == {0}
    joins.set()
    while by == {0}:
        squares(one, range(4))


def test_a_worker_with_nothing_to_do_takes_on_what_another_one_dawdles_over(pool):
    released, slow = threading.Event(), []

    def dawdles(job):
        if job == 7 and not slow:
            slow.append(job)
            released.wait(SOON)

    one = pool(lambda number: Squares(dawdles), 2)
    squares(one, [1, 2, 3])
    began = time.monotonic()
    assert one.submit(7).result(SOON) == 49
    assert time.monotonic() - began < SOON / 2
    assert not released.is_set()
    released.set()
    assert squares(one, [4, 5]) == [16, 25]


def test_what_no_worker_can_be_started_for_is_told_to_all_jobs(pool):
    def start(number):
        raise UserError("no such model")

    one = pool(start, 2)
    for _ in range(2):
        with pytest.raises(UserError, match="no such model"):
            one.submit(1).result(SOON)


def test_a_closed_pool_stops_its_workers_and_cancels_the_rest():
    worker = Squares(lambda job: worker.gone.wait(SOON))
    one = Pool("worker", lambda number: worker, 1)
    futures = [one.submit(job) for job in range(3)]
    while not one.running:
        time.sleep(0.001)
    one.close()
    assert all(future.cancelled() for future in futures)
    assert worker.gone.is_set()


def test_a_closed_pool_has_no_thread_left_that_waits_for_a_worker(capsys):
    def begin():
        waits.set()
        if worker.gone.wait(SOON):
            raise Lost("was stopped")

    waits, worker = threading.Event(), Squares(begin=begin)
    one = Pool("worker", lambda number: worker, 1)
    waits.wait(SOON)
    one.close()
    assert worker.gone.is_set()
    assert not any(thread.is_alive() for thread in one.threads)
    assert not capsys.readouterr().err


def test_a_worker_that_is_started_while_the_pool_closes_is_stopped_too():
    begun, closing, worker = threading.Event(), threading.Event(), Squares()

    def start(number):
        begun.set()
        closing.wait(SOON)
        return worker

    one = Pool("worker", start, 1)
    begun.wait(SOON)
    closes = threading.Thread(target=one.close)
    closes.start()
    while not one.closed:
        time.sleep(0.001)
    closing.set()
    closes.join(SOON)
    assert worker.gone.is_set()
    assert not one.threads[0].is_alive()
