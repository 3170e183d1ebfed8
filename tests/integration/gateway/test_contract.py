"""What the services say of themselves in OpenAPI, held against what they answer to anything."""

from typing import Any

import httpx
import hypothesis
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase
from hypothesis import strategies as st
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.end_to_end.http import Http

EXAMPLES = 25
"""Requests per operation: thirty operations in twice as many seconds at most."""
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]
SESSIONS = ("contract-created", "contract-active", "contract-stopped")


@pytest.fixture(scope="module")
def sessions(http: Http) -> Http:
    """Have sessions in different states, so that not every path leads to a 404."""
    http.pipelines.post("/pipelines", json={"session_id": SESSIONS[0]})
    http.active(SESSIONS[1])
    http.active(SESSIONS[2])
    http.pipelines.post(f"/pipelines/{SESSIONS[2]}/chunks", content=b"x" * 5000)
    http.stop(SESSIONS[2])
    return http


@pytest.mark.parametrize("service", ["pipelines", "recordings"])
def test_answers_are_as_documented(sessions: Http, service: str) -> None:
    """Whatever fits the document, and much that does not, gets an answer that is in it, and never a 5xx."""
    client: httpx.Client = getattr(sessions, service)
    document = client.get("/schema/openapi.json").json()
    schema = schemathesis.openapi.from_dict(document)
    schema.config.update(base_url=str(client.base_url))
    seen = 0
    for result in schema.get_all_operations():
        assert isinstance(result, Ok), result
        operation = result.ok()
        if operation.path.startswith("/health"):
            continue  # 503 is what it is for
        seen += 1

        @hypothesis.settings(
            max_examples=EXAMPLES,
            deadline=None,
            database=None,
            phases=(Phase.explicit, Phase.generate),
            suppress_health_check=list(HealthCheck),
        )
        @hypothesis.given(case=operation.as_strategy(), known=st.sampled_from([None, *SESSIONS]))
        def ask(case: Any, known: str | None) -> None:
            if known and "sid" in (case.path_parameters or {}):
                case.path_parameters["sid"] = known
            case.query = {**(case.query or {}), **_quick(case)}
            answer = case.call(session=None)
            # An answer to HEAD has no body whose type or shape could be compared.
            bodiless = case.method == "HEAD"
            case.validate_response(answer, checks=CHECKS[:2] if bodiless else CHECKS)

        ask()
    assert seen > 9


@pytest.mark.parametrize("service", ["pipelines", "recordings"])
def test_headers_of_errors_are_documented(http: Http, service: str) -> None:
    """Every answer that is an error says in the document what its headers tell; one to HEAD has no more."""
    client: httpx.Client = getattr(http, service)
    paths = client.get("/schema/openapi.json").json()["paths"]
    heads = 0
    for path, operations in paths.items():
        for verb, operation in operations.items():
            for status, answer in operation["responses"].items():
                if "ErrorAnswer" not in str(answer.get("content")):
                    continue
                heads += verb == "head"
                told = {name for name, header in answer["headers"].items() if header.get("required")}
                assert "Lucid-Reason" in told, (verb, path, status)
                assert {"Lucid-State", "Lucid-Allowed", "Lucid-Recorder"} <= set(answer["headers"])
    assert heads > 1


def _quick(case: Any) -> dict[str, Any]:
    """Return parameters that keep a valid request from waiting on purpose."""
    path = case.operation.path
    if path.endswith("/events"):
        return {"follow": "false"}
    names = {parameter.name for parameter in case.operation.query}
    return dict.fromkeys(names & {"timeout"}, "5") | ({"wait": "0"} if _waits(case) else {})


def _waits(case: Any) -> bool:
    return any(
        parameter.name == "wait" and parameter.definition["schema"].get("type") == "number"
        for parameter in case.operation.query
    )
