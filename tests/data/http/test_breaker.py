"""The circuit breaker that the crawl and the archive look-up share."""

from __future__ import annotations

from data.http.breaker import Breaker


def test_breaker_opens_at_the_limit_and_gives_up_at_the_next_failure() -> None:
    breaker = Breaker()
    assert [breaker.fail(3) for _ in range(5)] == ["closed", "closed", "opened", "given_up", "given_up"]


def test_weights_of_failures_add_up() -> None:
    breaker = Breaker()
    assert [breaker.fail(5, weight) for weight in (2, 1, 1, 2)] == ["closed", "closed", "closed", "opened"]


def test_success_closes_the_breaker() -> None:
    breaker = Breaker()
    assert not breaker.succeed()
    assert [breaker.fail(2) for _ in range(2)] == ["closed", "opened"]
    assert breaker.succeed()
    assert not breaker.succeed()
    assert breaker.fail(2) == "closed"
