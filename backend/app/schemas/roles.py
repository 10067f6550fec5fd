"""The roles a user can have in an organization, least first.

Asked by permissions, payload models and the users table. A superuser stands above
every role and is a flag on the user, not a role: it also crosses organizations.
"""

from enum import StrEnum


class Role(StrEnum):
    """What a user may do in the own organization; each role includes the ones before it."""

    VIEWER = "viewer"
    OPERATOR = "operator"
    ADMIN = "admin"

    @property
    def rank(self) -> int:
        """The place in the order of roles, 0 for the least."""
        return _RANK[self]

    def includes(self, other: "Role") -> bool:
        """Tell whether this role may do everything that `other` may."""
        return self.rank >= other.rank


_RANK = {role: rank for rank, role in enumerate(Role)}
