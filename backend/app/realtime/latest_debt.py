"""Which latest values one connection has still to be told, because they were missed or did not fit. Pure."""


class LatestDebt:
    """The values that a connection is owed. What is pushed meanwhile is newer, and pays."""

    __slots__ = ("_paid", "_round", "is_all", "sources")

    def __init__(self) -> None:
        self.sources: set[str] = set()
        """Names of single values (`marks.latest_source`)."""
        self.is_all = False
        """Whether every value of its subscriptions is owed."""
        self._paid: set[str] = set()
        self._round = 0

    @property
    def is_paid(self) -> bool:
        """Whether nothing is owed any more."""
        return not self.is_all and not self.sources

    def add(self, source: str | None) -> None:
        """Owe one more value; None: all of them."""
        if source is None:
            self.is_all = True
            self._round += 1
            self._paid.clear()
        else:
            self.sources.add(source)
            self._paid.discard(source)

    def paid(self, source: str) -> None:
        """Take note that a value was pushed: what is read from the database may be older."""
        self.sources.discard(source)
        if self.is_all:
            self._paid.add(source)

    def is_owed(self, source: str) -> bool:
        """Tell whether a value that was read has to be told."""
        return source in self.sources or (self.is_all and source not in self._paid)

    def begin_all(self) -> int:
        """Begin to read every value; give the result to `end_all`."""
        return self._round

    def end_all(self, begun: int) -> None:
        """Every value was read. What was owed anew since `begin_all` stays owed."""
        if begun == self._round:
            self.is_all = False
            self._paid.clear()
