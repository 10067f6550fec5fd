"""Users of two organizations on a running server."""

from dataclasses import dataclass

from tests.integration.server_process import PASSWORD, ServerProcess

ROLES = {"olga": "operator", "vic": "viewer", "ada": "admin"}
"""Users of the first organization by name; `bob` is an operator of the second."""


@dataclass(frozen=True, slots=True)
class People:
    """Access tokens by user name, and the ids of users and organizations."""

    tokens: dict[str, str]
    ids: dict[str, str]
    organizations: dict[str, str]


async def make_people(server: ServerProcess) -> People:
    """Make the users and log each in."""
    tokens = {"admin": await server.login()}
    ids: dict[str, str] = {}
    async with server.client(tokens["admin"]) as client:
        me = (await client.get("/auth/me")).json()
        ids["admin"] = me["id"]
        made = await client.post("/organizations", json={"name": "second"})
        assert made.status_code == 201, made.text
        organizations = {"first": me["organizationId"], "second": made.json()["id"]}
        wanted = [(name, role, organizations["first"]) for name, role in ROLES.items()]
        for name, role, organization in [*wanted, ("bob", "operator", organizations["second"])]:
            body = {"username": name, "role": role, "password": PASSWORD, "organizationId": organization}
            answer = await client.post("/users", json=body)
            assert answer.status_code == 201, answer.text
            ids[name] = answer.json()["id"]
            tokens[name] = await server.login(name)
    return People(tokens, ids, organizations)
