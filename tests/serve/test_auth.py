"""Promises of API keys: only hashes are stored, scopes hold, and a revoked key ends without a restart."""

from __future__ import annotations

import hmac
import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.serve.live import Live, problem, serving, wait_for

from archlab.errors import UserError
from archlab.serve.auth import KeyFile, create_key, read_keys, revoke_key


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "keys.json"


def test_a_key_is_found_by_what_was_shown_and_by_nothing_else(file: Path) -> None:
    key, other = create_key(file, "web-app", ["read", "admin"], 5.0, 7), create_key(file, "other")
    found = KeyFile(file).find(key)
    assert found is not None
    assert (found.id, found.scopes, found.requests_per_second, found.burst) == ("web-app", ("read", "admin"), 5.0, 7)
    secret = other.rpartition("_")[2]
    for wrong in ("", "archlab", "archlab__", key[:-1], key + "0", f"archlab_web-app_{secret}", key.upper(), "é_web_x"):
        assert KeyFile(file).find(wrong) is None
    assert KeyFile(file).find("sk" + key.removeprefix("archlab")) is None


def test_the_file_holds_no_secret_and_only_its_owner_reads_it(file: Path) -> None:
    key = create_key(file, "a")
    assert key.rpartition("_")[2] not in file.read_text()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    create_key(file, "b")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_secrets_are_compared_in_constant_time_whether_or_not_the_id_exists(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, compared = create_key(file, "a"), []
    original = hmac.compare_digest
    monkeypatch.setattr(hmac, "compare_digest", lambda one, two: (compared.append(two), original(one, two))[1])
    keys = KeyFile(file)
    keys.find(key)
    keys.find("archlab_nobody_00")
    assert [len(one) for one in compared] == [64, 64]


def test_the_file_is_read_again_when_it_changes_and_kept_while_it_is_damaged(file: Path) -> None:
    key = create_key(file, "a")
    keys = KeyFile(file)
    file.write_text("{", encoding="utf-8")
    assert keys.find(key) is not None
    file.unlink()
    new = create_key(file, "b")
    assert keys.find(key) is None
    assert keys.find(new) is not None


@pytest.mark.parametrize("name", ["", "a b", "a_b", "ä", "a/b"])
def test_names_are_letters_digits_and_hyphens(file: Path, name: str) -> None:
    with pytest.raises(UserError, match="letters, digits"):
        create_key(file, name)


def test_a_name_is_given_once_and_a_missing_one_cannot_be_revoked(file: Path) -> None:
    create_key(file, "a")
    with pytest.raises(UserError, match="exists"):
        create_key(file, "a")
    with pytest.raises(UserError, match="its keys are a"):
        revoke_key(file, "b")
    revoke_key(file, "a")
    assert read_keys(file) == {}


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"keys": [{"id": "a"}]}', '{"keys": [{"id": "a", "hash": "b", "scopes": ["root"]}]}']
)
def test_a_damaged_file_is_one_line(file: Path, text: str) -> None:
    file.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match="damaged"):
        KeyFile(file)


def test_a_missing_file_says_how_to_make_it(file: Path) -> None:
    with pytest.raises(UserError, match="archlab keys create"):
        KeyFile(file)


@pytest.fixture
def guarded(file: Path, tmp_path: Path, damaged: str) -> Iterator[tuple[Live, dict[str, dict[str, str]]]]:
    """A service with keys and without models, and the headers of three keys."""
    given = {
        "reader": create_key(file, "reader"),
        "admin": create_key(file, "admin", ["read", "admin"]),
        "slow": create_key(file, "slow", ["read"], 0.001, 3),
    }
    with serving(api_keys=file, models=(damaged,), ready=False, audit_file=tmp_path / "audit") as live:
        yield live, {name: {"Authorization": f"Bearer {key}"} for name, key in given.items()}


Guarded = tuple[Live, dict[str, dict[str, str]]]


def test_without_a_valid_key_nothing_is_answered_but_health_and_documentation(guarded: Guarded) -> None:
    live, _ = guarded
    with live.client() as client:
        for headers in ({}, {"Authorization": "Bearer no"}, {"Authorization": "Basic Zm9v"}):
            answer = client.get("/v1/models", headers=headers)
            problem(answer, "unauthenticated")
            assert answer.headers["www-authenticate"] == "Bearer"
            problem(client.post("/v1/embeddings", json={"input": "x"}, headers=headers), "unauthenticated")
        for path in ("/healthz", "/readyz", "/metrics", "/version", "/docs", "/openapi.json"):
            assert client.get(path).status_code in (200, 503)


def test_a_scope_opens_what_it_says_and_no_more(guarded: Guarded) -> None:
    live, headers = guarded
    with live.client() as client:
        assert client.get("/v1/models", headers=headers["reader"]).status_code == 200
        document = problem(client.delete("/v1/models/x", headers=headers["reader"]), "forbidden")
        assert document["detail"] == "Key 'reader' has read; this needs 'admin'."
        assert client.delete("/v1/models/x", headers=headers["admin"]).status_code != 403


def test_a_revoked_key_ends_with_the_next_request(guarded: Guarded, file: Path) -> None:
    live, headers = guarded
    with live.client() as client:
        assert client.get("/v1/models", headers=headers["reader"]).status_code == 200
        revoke_key(file, "reader")
        problem(client.get("/v1/models", headers=headers["reader"]), "unauthenticated")
        assert client.get("/v1/models", headers=headers["admin"]).status_code == 200


def test_each_key_has_its_own_rate_limit(guarded: Guarded) -> None:
    live, headers = guarded
    with live.client() as client:
        assert [client.get("/v1/models", headers=headers["slow"]).status_code for _ in range(3)] == [200] * 3
        answer = client.get("/v1/models", headers=headers["slow"])
        problem(answer, "rate-limited")
        assert int(answer.headers["retry-after"]) > 900
        assert client.get("/v1/models", headers=headers["reader"]).status_code == 200


def test_the_limit_counts_items_and_not_requests(guarded: Guarded) -> None:
    live, headers = guarded
    with live.client() as client:
        assert (
            client.post("/v1/embeddings", json={"input": ["a", "b", "c"]}, headers=headers["slow"]).status_code != 429
        )
        problem(client.post("/v1/embeddings", json={"input": "a"}, headers=headers["slow"]), "rate-limited")


def test_the_audit_log_has_changes_and_refusals_and_no_payload(guarded: Guarded, tmp_path: Path) -> None:
    live, headers = guarded
    with live.client() as client:
        client.get("/v1/models", headers=headers["reader"])
        client.delete("/v1/models/secret-name", headers=headers["admin"])
        client.delete("/v1/models/x", headers=headers["reader"])
        client.post("/v1/embeddings", json={"input": "private words"}, headers={"Authorization": "Bearer stolen"})
        wait_for(lambda: (tmp_path / "audit").read_text().count("\n") == 3)  # written once an answer has left
    records = [json.loads(line) for line in (tmp_path / "audit").read_text().splitlines()]
    assert [(one["action"], one["caller"]) for one in records] == [
        ("DELETE /v1/models/secret-name", "admin"),
        ("DELETE /v1/models/x", "reader"),
        ("POST /v1/embeddings", ""),
    ]
    assert [one["status"] for one in records][1:] == [403, 401]
    assert all(one["timestamp"] and one["request_id"] for one in records)
    assert not {"private", "stolen"} & set((tmp_path / "audit").read_text().replace('"', " ").split())
    assert os.path.getsize(tmp_path / "audit")
