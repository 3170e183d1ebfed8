"""`jetstream.pace`: the faster way is found and kept, whatever the server is like."""

import pytest

from lucid_events.jetstream.pace import AGAIN, ENOUGH, SLICE, SOON, Pace, Way

BATCH = 50


class Server:
    """A server on a clock of its own, always with a crowd before it; counts what it stored each way."""

    def __init__(self, *, publish_s: float, batch_s: float) -> None:
        self.publish_s, self.batch_s = publish_s, batch_s
        self.time = 0.0
        self.pace = Pace(lambda: self.time)
        self.stored = dict.fromkeys(Way, 0)

    def store(self, appends: int) -> None:
        left = appends
        while left > 0:
            way, turn = self.pace.way, self.pace.turn
            if way is Way.TOGETHER:
                self.pace.batch_leaves()
            count = 1 if way is Way.SINGLY else BATCH
            self.time += self.publish_s if way is Way.SINGLY else self.batch_s
            self.stored[way] += count
            left -= count
            self.pace.landed(turn, count, crowded=True)


@pytest.mark.parametrize(
    ("publish_s", "batch_s", "faster"),
    [(0.00002, 0.003, Way.SINGLY), (0.0002, 0.003, Way.TOGETHER), (0.01, 0.03, Way.TOGETHER)],
)
def test_the_faster_way_is_found_and_kept(publish_s: float, batch_s: float, faster: Way) -> None:
    """All but a few in a hundred appends go the way the server is faster with."""
    server = Server(publish_s=publish_s, batch_s=batch_s)
    server.store(100 * SLICE)
    assert server.stored[faster] > 0.95 * sum(server.stored.values())


def test_a_trial_of_a_way_much_slower_is_short() -> None:
    """A server that takes ten milliseconds for a publish stores only a few like that to find out."""
    server = Server(publish_s=0.01, batch_s=0.03)
    server.store(2 * AGAIN * SLICE)
    assert 0 < server.stored[Way.SINGLY] <= 8 * ENOUGH


@pytest.mark.parametrize("at", range(0, 100 * SLICE, 7 * SLICE + 111))
def test_a_moment_of_trouble_changes_little(at: int) -> None:
    """A disk that hangs once, whenever it does, is not held against the way that met it for long."""
    server = Server(publish_s=0.0002, batch_s=0.003)
    server.store(at)
    server.time += 2.0
    before = server.stored[Way.SINGLY]
    server.store(AGAIN * SLICE)
    assert server.stored[Way.SINGLY] - before <= (SOON + 3) * SLICE


def test_a_way_costs_the_better_of_its_last_two_slices() -> None:
    """One slice that a hanging disk made dear does not bring the other way's turn."""
    server = Server(publish_s=0.0002, batch_s=0.003)
    server.store(5 * SLICE)
    before = server.stored[Way.SINGLY]
    assert server.pace.way is Way.TOGETHER
    server.store(BATCH)
    server.time += 2.0
    server.store(3 * SLICE)
    assert server.stored[Way.SINGLY] == before


def test_the_slower_way_is_tried_more_and_more_rarely() -> None:
    """After 16, 32 and then every 64 slices: a handful of short trials in ten times as many."""
    server = Server(publish_s=0.01, batch_s=0.03)
    server.store(10 * AGAIN * SLICE)
    assert server.stored[Way.SINGLY] <= 14 * ENOUGH


def test_a_server_that_changes_is_followed() -> None:
    """What is found out is tried again: a server restarted with other settings gets the other way."""
    server = Server(publish_s=0.00002, batch_s=0.003)
    ways = []
    for publish_s, appends in ((0.00002, 10 * SLICE), (0.001, 3 * SLICE), (0.00002, 2 * AGAIN * SLICE)):
        server.publish_s = publish_s
        server.store(appends)
        ways.append(server.pace.way)
    assert ways == [Way.SINGLY, Way.TOGETHER, Way.SINGLY]


def test_only_crowded_time_counts() -> None:
    """What callers take between their appends, or a server that is away, is not held against a way."""
    server = Server(publish_s=0.00002, batch_s=0.003)
    for _ in range(AGAIN * SLICE // BATCH):
        server.pace.landed(server.pace.turn, 1, crowded=False)
        server.time += 1.0
        server.store(BATCH)
        server.pace.pause()
        server.time += 60.0
    assert server.pace.way is Way.SINGLY
    assert server.stored[Way.SINGLY] > 0.8 * sum(server.stored.values())


def test_what_took_off_in_another_turn_does_not_count() -> None:
    """Publishes still in flight when a batch's turn has come say nothing about batches."""
    server = Server(publish_s=0.0002, batch_s=0.003)
    server.store(SLICE)
    old = server.pace.turn
    while server.pace.turn == old:
        server.store(1)
    now = server.pace.turn
    for _ in range(SLICE):
        server.pace.landed(old, 1, crowded=True)
    assert server.pace.turn == now
