"""What is measured: counts that add up, rates of the last minute, memory that does not grow."""

import threading

import pytest

from lucid_events.measures import MAX_LABELS, RECENT, SECONDS, STAGES, Ending, ProcessMeasures


class Clock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_every_stage_is_told_from_the_start() -> None:
    """A stage that did nothing yet has zeros, not a hole."""
    figures = ProcessMeasures().stages()
    assert tuple(one.name for one in figures) == STAGES
    assert {(one.processed, one.failed, one.in_flight, one.p95_ms, one.per_second) for one in figures} == {
        (0, 0, 0, 0.0, 0.0)
    }


def test_a_stage_counts_what_came_of_its_work() -> None:
    """Done, failed and given back are three things; only what is done has a time and bytes."""
    measures = ProcessMeasures()
    outcomes: list[Ending] = ["done", "done", "failed", "given back"]
    for outcome in outcomes:
        measures.begun("storage")
        measures.ended("storage", outcome, seconds=0.2, size=100)
    measures.begun("storage")
    one = measures.stages()[-1]
    assert (one.name, one.processed, one.failed, one.in_flight, one.bytes) == ("storage", 2, 1, 1, 200)
    assert (one.mean_ms, one.p95_ms) == (200, 200)


def test_times_are_of_the_last_work() -> None:
    """Mean and p95 forget what is long over, the histogram does not."""
    measures = ProcessMeasures()
    for seconds in [100.0] * 10 + [0.1] * RECENT:
        measures.begun("compression")
        measures.ended("compression", "done", seconds=seconds)
    one = next(one for one in measures.stages() if one.name == "compression")
    assert one.mean_ms == pytest.approx(100)
    assert one.p95_ms == 100
    assert measures.stage_histograms()["compression"].sum == pytest.approx(1000 + 0.1 * RECENT)


def test_the_rate_is_of_the_last_minute() -> None:
    """A load that ended a minute ago is not in the rate; a young process divides by its age."""
    clock = Clock()
    measures = ProcessMeasures(clock)

    def work() -> None:
        measures.begun("recording")
        measures.ended("recording", "done", seconds=0.1, size=50)

    def rate() -> tuple[float, float]:
        one = measures.stages()[0]
        return one.per_second, one.bytes_per_second

    clock.now += 10
    for _ in range(20):
        work()
    assert rate() == (2.0, 100.0)
    clock.now += 90
    assert rate() == (0.0, 0.0)
    work()
    assert rate() == pytest.approx((1 / 60, 50 / 60))


def test_buckets_are_cumulative_and_end_unbounded() -> None:
    """A histogram is as monitoring systems add it up: each bound counts everything up to it."""
    measures = ProcessMeasures()
    for seconds in (0.001, 0.02, 0.02, 500.0):
        measures.took("read", seconds)
    histogram = measures.steps()["read",]
    buckets = dict(histogram.cumulative())
    assert list(buckets)[-1] == "+Inf"
    assert len(buckets) == len(SECONDS) + 1
    assert (buckets["0.001"], buckets["0.01"], buckets["0.025"], buckets["120.0"], buckets["+Inf"]) == (
        1,
        1,
        3,
        3,
        4,
    )


def test_labels_are_bounded() -> None:
    """A caller that makes up names fills one bucket, not the monitoring system."""
    measures = ProcessMeasures()
    for number in range(MAX_LABELS + 50):
        measures.answered("create", f"code{number}", 0.01)
    found = measures.commands()
    assert len(found) == MAX_LABELS + 1
    assert found["other", "other"].cumulative()[-1][1] == 50


def test_threads_lose_no_count() -> None:
    """Any thread may tell."""
    measures = ProcessMeasures()

    def work() -> None:
        for _ in range(1000):
            measures.begun("compression")
            measures.ended("compression", "done", seconds=0.001, size=1)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    one = next(one for one in measures.stages() if one.name == "compression")
    assert (one.processed, one.in_flight, one.bytes) == (4000, 0, 4000)
