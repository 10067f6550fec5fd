"""The caps of this node: a place is counted in its phase, and given back once."""

from pathlib import Path

import pytest

from backend.app.config import Settings
from backend.app.schemas.messages import CloseCode
from backend.app.websocket.admission import Admission, Full


@pytest.fixture
def admission(tmp_path: Path) -> Admission:
    return Admission(
        Settings(
            data_dir=tmp_path,
            max_connections=4,
            max_unauthenticated=3,
            max_unauthenticated_per_address=2,
            max_connections_per_user=1,
        )
    )


def code_of(admission: Admission, address: str) -> CloseCode:
    with pytest.raises(Full) as full:
        admission.enter(address)
    return full.value.code


def test_unauthenticated_sockets_are_capped_per_address_and_in_all(admission: Admission) -> None:
    """Unauthenticated sockets 256 and 16 per address; beyond: 4029."""
    places = [admission.enter("a"), admission.enter("a")]
    assert code_of(admission, "a") is CloseCode.RATE_LIMITED
    places.append(admission.enter("b"))
    assert code_of(admission, "c") is CloseCode.RATE_LIMITED
    places[0].leave()
    places[0].leave()
    admission.enter("c")
    assert code_of(admission, "b") is CloseCode.RATE_LIMITED


def test_authentication_frees_the_place_in_the_auth_phase(admission: Admission) -> None:
    """The caps of the auth phase count nobody who is authenticated; the server's cap counts all."""
    for number in range(4):
        admission.enter("a").authenticated(f"user {number}")
    assert code_of(admission, "a") is CloseCode.RATE_LIMITED


def test_one_users_sockets_are_capped_with_4504(admission: Admission) -> None:
    """4504: too many connections of this user; the place counts for nobody then."""
    first = admission.enter("a")
    first.authenticated("user")
    second = admission.enter("a")
    with pytest.raises(Full) as full:
        second.authenticated("user")
    assert full.value.code is CloseCode.TOO_MANY_CONNECTIONS
    second.leave()
    first.leave()
    third = admission.enter("a")
    third.authenticated("user")
    third.leave()
    assert admission._by_user == {}
    assert admission._by_address == {}
    assert (admission._open, admission._unauthenticated) == (0, 0)
