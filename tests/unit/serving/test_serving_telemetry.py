import itertools
import threading
from collections.abc import Iterator

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families
from telemetry_traffic import CLASSES, Clock, info, prediction, rows

from shipway.endpoints.window import LATENCY_EDGES_MS, PROBABILITY_EDGES, Window
from shipway.serving.exposition import LATENCY_LE
from shipway.serving.telemetry import Telemetry

EDGES = (-10.0, 0.0, 10.0, 30.0)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def telemetry(clock: Clock) -> Iterator[Telemetry]:
    telemetry = Telemetry("flights", clock=clock)
    yield telemetry
    telemetry.close()


def samples(telemetry: Telemetry) -> dict[tuple[str, ...], float]:
    text, content_type = telemetry.exposition()
    assert content_type.startswith("text/plain")
    return {
        (sample.name, *(value for name, value in sorted(sample.labels.items()) if name not in ("model", "version"))): (
            sample.value
        )
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


def test_requests_and_latency(telemetry: Telemetry, clock: Clock) -> None:
    counter = telemetry.revision("v1", "1", info(), ())
    one, row = np.array([[0.2, 0.8]]), rows(np.random.default_rng(0), 1)
    for milliseconds in (0.05, 0.051, 64_000.0, 1e9):
        counter.answered(milliseconds / 1000, one, row, "")
    counter.failed(0.1)
    counter.refused(0.1)
    counter.refused(0.1)
    window = telemetry.windows(clock.now - 1, clock.now + 1)["v1"]
    assert (window.requests, window.errors, window.refused) == (7, 1, 2)
    wanted = [0] * (len(LATENCY_EDGES_MS) + 1)
    for milliseconds in (0.05, 0.051, 64_000.0, 1e9):
        # As a Prometheus histogram has it: an edge belongs to the bucket below it.
        wanted[sum(edge < milliseconds for edge in LATENCY_EDGES_MS)] += 1
    assert window.latency == wanted
    assert window.features["delay"].rows == 4


@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
def test_statistics_are_those_of_the_rows(telemetry: Telemetry, clock: Clock, task: str) -> None:
    draw = np.random.default_rng(1)
    counter = telemetry.revision("v1", "1", info(task), EDGES if task == "regression" else ())
    asked, answers = [], []
    for count in [1] * 400 + [700]:
        some, values = rows(draw, count), prediction(draw, count, task)
        counter.answered(0.001, values, some, "")
        asked += some
        answers.append(values)
    window = telemetry.windows(clock.now - 5, clock.now + 5)["v1"]
    everything = np.concatenate(answers)
    assert window.predictions is not None
    if task == "multiclass":
        assert window.predictions.labels == CLASSES[task]
        assert window.predictions.counts == np.bincount(everything.argmax(axis=1), minlength=3).tolist()
    else:
        edges = list(PROBABILITY_EDGES if task == "binary" else EDGES)
        wanted = [0] * (len(edges) + 1)
        for value in everything[:, -1].astype(float):
            wanted[sum(edge <= value for edge in edges)] += 1
        assert (window.predictions.edges, window.predictions.counts) == (edges, wanted)
    for name in ("delay", "distance", "holiday"):
        known = np.array([float(row[name]) for row in asked if row[name] is not None])
        found = window.features[name]
        assert (found.rows, found.nulls) == (len(asked), len(asked) - len(known))
        assert found.total == pytest.approx(known.sum())
        assert found.squares == pytest.approx((known**2).sum())
    carrier = window.features["carrier"]
    assert (carrier.nulls, carrier.total) == (sum(row["carrier"] is None for row in asked), 0)


def test_regression_without_edges_counts_no_predictions(telemetry: Telemetry, clock: Clock) -> None:
    counter = telemetry.revision("v1", "1", info("regression"), ())
    counter.answered(0.001, np.array([[3.0]]), rows(np.random.default_rng(0), 1), "")
    assert telemetry.windows(clock.now, clock.now + 1)["v1"].predictions is None


def test_windows_add_up_however_time_is_cut(telemetry: Telemetry, clock: Clock) -> None:
    draw = np.random.default_rng(2)
    begun = int(clock.now)
    counter = telemetry.revision("v1", "1", info(), ())
    for _ in range(600):
        clock.now += draw.random() * 30
        counter.answered(draw.random(), prediction(draw, 2), rows(draw, 2), "")
        if draw.random() < 0.1:
            counter.failed(0.0)
        # What is queued is counted where its second is, as long as the thread keeps up.
        telemetry.windows(0, 0)
    ended = int(clock.now) + 1
    whole = telemetry.windows(begun, ended)["v1"]
    assert whole.requests == 600 + whole.errors
    assert whole.predictions is not None
    assert sum(whole.predictions.counts) == 1200
    cuts = [begun, *sorted(draw.integers(begun, ended, 20).tolist()), ended]
    summed = Window(revision="v1", since=begun, until=begun)
    for since, until in itertools.pairwise(cuts):
        summed = summed.plus(telemetry.windows(since, until)["v1"])
    assert summed.model_dump(exclude={"features"}) == whole.model_dump(exclude={"features"})
    assert summed.features["delay"].squares == pytest.approx(whole.features["delay"].squares)


def test_old_counts_are_thinned_and_then_dropped(telemetry: Telemetry, clock: Clock) -> None:
    begun = clock.now
    counter = telemetry.revision("v1", "1", info(), ())
    for _ in range(2000):
        counter.refused(0.0)
        clock.now += 120
    window = telemetry.windows(begun, clock.now)["v1"]
    # 120 s apart: an hour by the second and two days by the minute.
    assert 48 * 30 <= window.requests < 49 * 30 + 30
    assert window.requests == len(counter.traffic._fine) + len(counter.traffic._coarse) + 1
    # Prometheus is told of all of them all the same.
    assert samples(telemetry)["shipway_requests_total", "refused", "v1"] == 2000


def test_a_clock_that_is_set_back_loses_nothing(telemetry: Telemetry, clock: Clock) -> None:
    counter = telemetry.revision("v1", "1", info(), ())
    begun = clock.now
    for step in (0, 5, -400, 1):
        clock.now += step
        counter.refused(0.0)
    assert telemetry.windows(begun, begun + 10)["v1"].requests == 4


def test_mirror_is_counted_and_compared(telemetry: Telemetry, clock: Clock) -> None:
    binary = telemetry.revision("v2", "2", info(), ())
    binary.mirrored(0.01, np.array([[0.4, 0.6], [0.6, 0.4]]), np.array([[0.1, 0.9], [0.4, 0.6]]))
    binary.mirror_failed(0.01)
    binary.mirror_dropped()
    value = telemetry.revision("v3", "3", info("regression"), EDGES)
    value.mirrored(0.01, np.array([[104.0], [106.0], [0.0]]), np.array([[100.0], [100.0], [0.0]]))
    classes = telemetry.revision("v4", "4", info("multiclass"), ())
    classes.mirrored(0.01, np.array([[0.2, 0.5, 0.3]]), np.array([[0.1, 0.2, 0.7]]))
    found = telemetry.windows(clock.now, clock.now + 1)
    mirror = found["v2"].mirror
    assert (mirror.sent, mirror.failed, mirror.dropped, mirror.compared, mirror.agreed) == (2, 1, 1, 2, 1)
    assert mirror.difference == pytest.approx(0.3 + 0.2)
    assert (found["v2"].requests, found["v2"].errors) == (2, 1)
    assert (found["v3"].mirror.compared, found["v3"].mirror.agreed) == (3, 2)
    assert found["v3"].mirror.difference == pytest.approx(10.0)
    assert (found["v4"].mirror.compared, found["v4"].mirror.agreed) == (1, 0)
    assert found["v4"].mirror.difference == pytest.approx(0.3)


def test_full_queue_loses_rows_and_counts_them(telemetry: Telemetry, clock: Clock) -> None:
    counter = telemetry.revision("v1", "1", info(), ())
    many = np.tile([0.4, 0.6], (60_000, 1))
    counter.answered(0.001, many, [], "")
    window = telemetry.windows(clock.now, clock.now + 1)["v1"]
    assert (window.requests, telemetry.rows_lost) == (1, 60_000)
    assert samples(telemetry)["shipway_statistics_rows_lost_total",] == 60_000


def test_answers_of_the_wrong_shape_do_not_end_the_counting(
    telemetry: Telemetry, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    counter = telemetry.revision("v1", "1", info("multiclass"), ())
    counter.answered(0.001, np.zeros((1, 9)) + np.eye(1, 9, 8), rows(np.random.default_rng(0), 1), "")
    telemetry.windows(0, 0)
    counter.answered(0.001, np.array([[1.0, 0.0, 0.0]]), [{"other": 1}], "")
    telemetry.windows(0, 0)
    counter.answered(0.001, np.array([[1.0, 0.0, 0.0]]), rows(np.random.default_rng(0), 1), "")
    window = telemetry.windows(clock.now, clock.now + 1)["v1"]
    assert window.predictions is not None
    assert window.predictions.counts[0] == 1
    assert telemetry.rows_lost == 2
    assert [record.getMessage().partition(":")[0] for record in caplog.records] == ["revision v1"]


def test_revisions_come_and_go(telemetry: Telemetry, clock: Clock) -> None:
    first = telemetry.revision("v1", "1", info(), ())
    first.refused(0.0)
    assert telemetry.revision("v1", "1", info(), ()) is first
    telemetry.forget("v1")
    telemetry.forget("nobody")
    assert telemetry.windows(0, clock.now + 1)["v1"].requests == 1
    assert ("shipway_requests_total", "refused", "v1") in samples(telemetry)
    clock.now += 3600
    assert ("shipway_requests_total", "refused", "v1") not in samples(telemetry)
    assert telemetry.revision("v1", "1", info(), ()) is first
    assert ("shipway_requests_total", "refused", "v1") in samples(telemetry)
    for number in range(100, 200):
        telemetry.revision(f"v{number}", "1", info(), ())
        telemetry.forget(f"v{number}")
    assert len(telemetry.windows(0, clock.now)) <= 51


def test_prometheus_is_told_what_the_windows_say(telemetry: Telemetry, clock: Clock) -> None:
    draw = np.random.default_rng(3)
    counter = telemetry.revision("v1", "1", info(), ())
    for _ in range(300):
        counter.answered(draw.random() / 10, prediction(draw, 1), rows(draw, 1), "")
    counter.failed(0.0)
    counter.mirrored(0.5, np.array([[0.4, 0.6]]), np.array([[0.1, 0.9]]))
    window = telemetry.windows(0, clock.now + 1)["v1"]
    found = samples(telemetry)
    assert found["shipway_requests_total", "answered", "v1"] == 301
    assert found["shipway_requests_total", "error", "v1"] == window.errors == 1
    latency = [found["shipway_request_seconds_bucket", le, "v1"] for le in (*LATENCY_LE, "+Inf")]
    assert np.diff([0, *latency]).tolist() == window.latency
    assert [float(le) * 1000 for le in LATENCY_LE] == pytest.approx(LATENCY_EDGES_MS)
    assert window.predictions is not None
    bins = [found["shipway_predictions_bucket", repr(edge), "v1"] for edge in PROBABILITY_EDGES]
    assert np.diff([0, *bins, found["shipway_predictions_bucket", "+Inf", "v1"]]).tolist() == window.predictions.counts
    for name, counts in window.features.items():
        assert found["shipway_feature_rows_total", name, "v1"] == counts.rows
        assert found["shipway_feature_nulls_total", name, "v1"] == counts.nulls
        above, below = (found["shipway_feature_sum_total", name, "v1", sign] for sign in ("positive", "negative"))
        assert above - below == pytest.approx(counts.total)
        assert min(above, below) >= 0
        assert found["shipway_feature_squares_total", name, "v1"] == pytest.approx(counts.squares)
    assert found["shipway_mirror_rows_total", "compared", "v1"] == window.mirror.compared == 1
    assert found["shipway_mirror_difference_total", "v1"] == pytest.approx(window.mirror.difference)


def test_reading_while_counting_never_shows_too_much_or_less_than_before(telemetry: Telemetry, clock: Clock) -> None:
    draw = np.random.default_rng(4)
    counter = telemetry.revision("v1", "1", info(), ())
    begun, over = clock.now, threading.Event()
    faults: list[str] = []

    def read() -> None:
        last, last_told = 0, 0.0
        while not over.is_set():
            seen = telemetry.windows(begun, begun + 10**6)["v1"].requests
            told = samples(telemetry)["shipway_requests_total", "answered", "v1"]
            if seen < last or told < last_told or seen > 3000 or told > 3000:
                faults.append(f"{last} {seen} {last_told} {told}")
            last, last_told = seen, told

    reader = threading.Thread(target=read)
    reader.start()
    row, one = rows(draw, 1), prediction(draw, 1)
    for _ in range(3000):
        counter.answered(0.001, one, row, "")
        clock.now += 0.4
    over.set()
    reader.join()
    assert faults == []
    window = telemetry.windows(begun, begun + 10**6)["v1"]
    assert window.predictions is not None
    assert (window.requests, sum(window.predictions.counts)) == (3000, 3000)
