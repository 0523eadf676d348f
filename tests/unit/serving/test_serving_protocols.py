import http.client
import json
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from serving_process import Server, serve, until
from serving_stand_in import write_stand_in

ROW = {"delay": 1.0, "holiday": True, "carrier": "AA"}
V1 = "/v1/models/flights:predict"
V2 = "/v2/models/flights/infer"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("server")
    write_stand_in(folder / "package", mode="infinite")
    options = ["--package", str(folder / "package"), "--name", "flights", "--version", "7", "--port", "0"]
    with serve(folder, *options, "--max-body-bytes", "200000", "--max-rows", "1500") as started:
        yield started


def tensors(**changes: object) -> dict[str, object]:
    inputs = [
        {"name": "delay", "shape": [2], "datatype": "FP64", "data": [1.0, None]},
        {"name": "holiday", "shape": [2, 1], "datatype": "BOOL", "data": [[True], [None]]},
        {"name": "carrier", "shape": [2], "datatype": "BYTES", "data": ["AA", "ZZ"]},
    ]
    return {"id": "q1", "inputs": inputs, **changes}


def with_tensor(index: int, **changes: object) -> dict[str, object]:
    request = tensors()
    inputs = request["inputs"]
    assert isinstance(inputs, list)
    inputs[index] = {**inputs[index], **changes}
    return request


def test_v1_answers_with_label_probability_and_the_model_in_the_headers(server: Server) -> None:
    answer = server.post(V1, {"instances": [ROW, {**ROW, "delay": None, "holiday": None}]})
    assert answer.status == 200
    first, second = answer.json()["predictions"]
    assert first["label"] == "late"
    assert first["probability"] == pytest.approx(0.731058, abs=1e-6)
    assert list(first["probabilities"]) == ["no", "late"]
    assert second["probability"] == 0.5
    assert second["label"] == "late"
    assert answer.headers["x-model-name"] == "flights"
    assert answer.headers["x-model-version"] == "7"
    assert answer.headers["x-model-digest"].startswith("sha256:")
    assert answer.headers["content-type"] == "application/json"


def test_an_unknown_category_is_no_error(server: Server) -> None:
    assert server.post(V1, {"instances": [{**ROW, "carrier": "never seen"}]}).status == 200


def test_v1_lists_its_model_and_its_readiness(server: Server) -> None:
    assert server.get("/v1/models").json() == {"models": ["flights"]}
    assert server.get("/v1/models/flights").json() == {"name": "flights", "ready": True}
    assert server.get("/v1/models/other").status == 404


@pytest.mark.parametrize(
    ("body", "status", "reason"),
    [
        (b"", 400, "the body is empty"),
        (b"{", 400, "not JSON"),
        (b"\xff\xfe", 400, "not JSON"),
        (b'{"instances": [{"delay": NaN, "holiday": true, "carrier": "AA"}]}', 400, "not JSON"),
        (b'{"instances": [{"delay": Infinity, "holiday": true, "carrier": "AA"}]}', 400, "not JSON"),
        (b'{"instances": [{"delay": 1e999, "holiday": true, "carrier": "AA"}]}', 400, "not JSON"),
        (b"[" * 100_000, 400, "not JSON"),
        (b'{"a":' * 30_000, 400, "not JSON"),
        (b"null", 400, "JSON object"),
        ([ROW], 400, "JSON object"),
        ({}, 400, '"instances" must be a list of objects, found nothing'),
        ({"instances": ROW}, 400, "another type"),
        ({"instances": [ROW], "extra": 1}, 400, "unknown field 'extra'"),
        ({"instances": []}, 400, "empty"),
        ({"instances": [7]}, 400, "row 0: expected an object"),
        ({"instances": [None]}, 400, "row 0: expected an object"),
        ({"instances": [ROW, {"delay": 1}]}, 400, "row 1: features 'holiday', 'carrier' are missing"),
        ({"instances": [{**ROW, "delay": "1"}]}, 400, "feature 'delay' must be a number"),
        ({"instances": [{**ROW, "delay": True}]}, 400, "feature 'delay' must be a number"),
        ({"instances": [{**ROW, "delay": {"a": 1}}]}, 400, "feature 'delay' must be a number"),
        ({"instances": [{**ROW, "holiday": 1}]}, 400, "feature 'holiday' must be true or false"),
        ({"instances": [{**ROW, "carrier": 3}]}, 400, "feature 'carrier' must be text"),
        ({"instances": [{**ROW, "carrier": None}]}, 400, "must not be null"),
        ({"instances": [{**ROW, "other": 3}]}, 400, "unknown feature 'other'"),
        ({"instances": [{**ROW, "delay": 1e308}]}, 400, "no finite number"),
        ({"instances": [ROW] * 1501}, 413, "1501 rows"),
    ],
)
def test_v1_refuses_bad_input_with_a_reason(server: Server, body: object, status: int, reason: str) -> None:
    answer = server.post(V1, body)
    assert answer.status == status
    assert list(answer.json()) == ["error"]
    assert reason in answer.json()["error"]
    assert answer.headers["x-model-version"] == "7"


def test_a_deeply_nested_value_is_refused(server: Server) -> None:
    nested = b"[" * 1000 + b"]" * 1000
    answer = server.post(V1, b'{"instances": [{"delay": %s, "holiday": true, "carrier": "AA"}]}' % nested)
    assert answer.status == 400
    assert answer.json()["error"]


def test_a_huge_integer_is_taken_as_the_number_it_is_or_refused_with_a_reason(server: Server) -> None:
    answer = server.post(V1, b'{"instances": [{"delay": %s, "holiday": true, "carrier": "AA"}]}' % (b"9" * 300))
    assert answer.status in (200, 400)


def test_an_oversized_body_is_refused_without_being_read_whole(server: Server) -> None:
    answer = server.post(V1, b" " * 300_000)
    assert answer.status == 413
    assert "200000 bytes" in answer.reason()


def test_an_announced_oversized_body_is_refused_before_it_is_sent(server: Server) -> None:
    parts = urlsplit(server.url)
    with socket.create_connection((parts.hostname, parts.port), timeout=10) as connection:
        connection.sendall(b"POST %s HTTP/1.1\r\nhost: x\r\ncontent-length: 99999999999\r\n\r\n{" % V1.encode())
        assert connection.recv(1000).startswith(b"HTTP/1.1 413")


def test_an_endless_chunked_body_is_refused(server: Server) -> None:
    parts = urlsplit(server.url)
    with socket.create_connection((parts.hostname, parts.port), timeout=10) as connection:
        connection.sendall(b"POST %s HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n" % V1.encode())
        chunk = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
        received = b""
        connection.settimeout(0.05)
        for _ in range(2000):
            try:
                connection.sendall(chunk)
                received += connection.recv(1000)
            except TimeoutError:
                continue
            except (BrokenPipeError, ConnectionResetError):
                break
            if received:
                break
        assert received.startswith(b"HTTP/1.1 413")


def test_a_client_that_leaves_halfway_does_no_harm(server: Server) -> None:
    parts = urlsplit(server.url)
    for _ in range(5):
        with socket.create_connection((parts.hostname, parts.port), timeout=10) as connection:
            connection.sendall(b'POST %s HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{"ins' % V1.encode())
    assert server.post(V1, {"instances": [ROW]}).status == 200
    assert "Traceback" not in server.log.read_text()


def test_paths_models_and_methods_that_do_not_exist(server: Server) -> None:
    assert server.post("/v1/models/other:predict", {"instances": [ROW]}).status == 404
    assert "no model 'other'" in server.post("/v2/models/other/infer", tensors()).reason()
    assert server.get("/nowhere").status == 404
    assert server.get("/nowhere").json()["error"]
    for path in (V1, V2):
        answer = server.get(path)
        assert answer.status == 405
        assert answer.json()["error"]
        assert answer.headers["allow"] == "POST"
    assert server.post("/v2/health/live", {}).status == 405
    assert server.post(V1, {"instances": [ROW]}, {"content-encoding": "gzip"}).status == 415


def test_any_content_type_is_taken(server: Server) -> None:
    assert server.post(V1, {"instances": [ROW]}, {"content-type": "text/plain"}).status == 200


def test_one_connection_answers_request_after_request(server: Server) -> None:
    parts = urlsplit(server.url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=10)
    for body in (b"{", json.dumps({"instances": [ROW]}).encode(), b"[]", json.dumps({"instances": [ROW]}).encode()):
        connection.request("POST", V1, body)
        response = connection.getresponse()
        response.read()
        assert response.status in (200, 400)
    connection.close()


def test_v2_tells_of_the_server_and_the_model(server: Server) -> None:
    assert server.get("/v2").json()["limits"] == {"body_bytes": 200_000, "rows": 1500}
    assert server.get("/v2/health/live").json() == {"live": True}
    assert server.get("/v2/health/ready").json() == {"ready": True}
    metadata = server.get("/v2/models/flights").json()
    assert metadata["versions"] == ["7"]
    assert {entry["name"]: entry["datatype"] for entry in metadata["inputs"]} == {
        "delay": "FP64",
        "holiday": "BOOL",
        "carrier": "BYTES",
    }
    assert metadata["outputs"][0] == {"name": "prediction", "datatype": "FP64", "shape": [-1, 2]}
    assert server.get("/v2/models/flights/ready").headers["x-model-version"] == "7"
    assert server.get("/v2/models/flights/versions/7/ready").status == 200
    assert server.get("/v2/models/flights/versions/8/ready").status == 404


def test_v2_infers(server: Server) -> None:
    answer = server.post(V2, tensors())
    assert answer.status == 200
    body = answer.json()
    assert (body["id"], body["model_name"], body["model_version"]) == ("q1", "flights", "7")
    prediction, label = body["outputs"]
    assert prediction["shape"] == [2, 2]
    assert prediction["data"] == pytest.approx([0.268941, 0.731058, 0.5, 0.5], abs=1e-6)
    assert label == {"name": "label", "datatype": "BYTES", "shape": [2], "data": ["late", "late"]}
    assert answer.headers["x-model-version"] == "7"
    assert server.post("/v2/models/flights/versions/7/infer", tensors()).status == 200
    assert server.post("/v2/models/flights/versions/9/infer", tensors()).status == 404


def test_v2_gives_the_outputs_asked_for(server: Server) -> None:
    body = server.post(V2, tensors(outputs=[{"name": "label"}])).json()
    assert [entry["name"] for entry in body["outputs"]] == ["label"]


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ({}, "inputs"),
        ([], "inputs"),
        (tensors(inputs=[]), "empty"),
        (tensors(inputs=[1]), "every input must be an object"),
        (tensors(inputs=tensors()["inputs"][:2]), "input 'carrier' is missing"),
        (tensors(inputs=[*tensors()["inputs"], tensors()["inputs"][0]]), "given twice"),
        (tensors(id=3), "'id' must be text"),
        (tensors(surplus=3), "unknown field 'surplus'"),
        (tensors(outputs=[{"name": "nope"}]), "'outputs'"),
        (tensors(outputs=[{"name": ["x"]}]), "'outputs'"),
        (tensors(outputs=3), "'outputs'"),
        (with_tensor(0, name="other"), "unknown input 'other'"),
        (with_tensor(0, datatype="BYTES"), "'datatype' must be one of FP64"),
        (with_tensor(0, datatype=["FP64"]), "'datatype' must be one of FP64"),
        (with_tensor(2, datatype="FP64"), "'datatype' must be BYTES"),
        (with_tensor(0, datatype="INT64", data=[1.5, 2.5]), "something else than integers"),
        (with_tensor(0, data=["x", "y"]), "must be a number"),
        (with_tensor(1, data=[1, 0]), "must be true or false"),
        (with_tensor(2, data=["AA", None]), "must not be null"),
        (with_tensor(0, data=[1.0]), "'shape' says 2 rows"),
        (with_tensor(0, data={"a": 1}), "'data' must be a list"),
        (with_tensor(0, data=[[1.0], 2.0]), "nested"),
        (with_tensor(0, shape=[1, 2]), "'shape' must be"),
        (with_tensor(0, shape=[-1]), "'shape' must be"),
        (with_tensor(0, shape=[]), "'shape' must be"),
        (with_tensor(0, shape=[True]), "'shape' must be"),
        (with_tensor(0, shape=[1], data=[1.0]), "rows"),
        (with_tensor(0, shape=[0], data=[]), "empty"),
    ],
)
def test_v2_refuses_bad_input_with_a_reason(server: Server, body: object, reason: str) -> None:
    answer = server.post(V2, body)
    assert answer.status == 400
    assert reason in answer.json()["error"]


def test_administration_is_off_without_a_token(server: Server) -> None:
    answer = server.post("/v2/repository/models/flights/unload", {}, {"authorization": "Bearer "})
    assert answer.status == 403


@pytest.mark.parametrize(
    ("task", "classes", "expected"),
    [
        ("regression", [], {"value": 1.0}),
        (
            "multiclass",
            ["a", "b", "c"],
            {"label": "a", "probability": 0.731058, "probabilities": {"a": 0.731058, "b": 0.134470, "c": 0.134470}},
        ),
        (
            "binary",
            [False, True],
            {"label": True, "probability": 0.731058, "probabilities": {"false": 0.268941, "true": 0.731058}},
        ),
        ("binary", [0, 1], {"label": 1, "probability": 0.731058, "probabilities": {"0": 0.268941, "1": 0.731058}}),
    ],
)
def test_each_task_has_its_answer(
    tmp_path: Path, task: str, classes: list[object], expected: dict[str, object]
) -> None:
    write_stand_in(tmp_path / "package", task=task, classes=classes)
    with serve(
        tmp_path, "--package", str(tmp_path / "package"), "--name", "flights", "--version", "1", "--port", "0"
    ) as started:
        (found,) = started.post(V1, {"instances": [ROW]}).json()["predictions"]
        outputs = {entry["name"]: entry for entry in started.post(V2, tensors()).json()["outputs"]}
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert found[key] == (pytest.approx(value, abs=1e-6) if key != "label" else value)
    assert outputs["prediction"]["shape"] == [2, max(1, len(classes))]
    if classes:
        assert outputs["label"]["datatype"] == {str: "BYTES", bool: "BOOL", int: "INT64"}[type(classes[0])]
        assert type(outputs["label"]["data"][0]) is type(classes[0])
    else:
        assert list(outputs) == ["prediction"]


def test_a_fault_of_the_server_is_a_500_with_a_reference_only(tmp_path: Path) -> None:
    write_stand_in(tmp_path / "package", mode="fault")
    with serve(
        tmp_path, "--package", str(tmp_path / "package"), "--name", "flights", "--version", "1", "--port", "0"
    ) as started:
        answer = started.post(V1, {"instances": [{**ROW, "carrier": "boom"}]})
        assert answer.status == 500
        assert "secret" not in answer.reason()
        reference = answer.reason().rpartition(" ")[2]
        assert f"reference {reference}" in started.log.read_text()
        until(lambda: "secret detail" in started.log.read_text())
        assert started.post(V1, {"instances": [ROW]}).status == 200


def test_health_stays_responsive_while_a_large_request_is_predicted(tmp_path: Path) -> None:
    write_stand_in(tmp_path / "package", mode="slow")
    with (
        serve(
            tmp_path, "--package", str(tmp_path / "package"), "--name", "flights", "--version", "1", "--port", "0"
        ) as started,
        ThreadPoolExecutor(1) as pool,
    ):
        large = pool.submit(started.post, V1, {"instances": [ROW] * 1001})
        slowest, asked = 0.0, 0
        while not large.done():
            begun = time.perf_counter()
            assert started.get("/v2/health/live").status == 200
            slowest = max(slowest, time.perf_counter() - begun)
            asked += 1
        assert large.result().status == 200
        assert asked > 3
        assert slowest < 0.9
