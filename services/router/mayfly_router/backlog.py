"""How many bytes may wait in this router, over all functions."""


class Backlog:
    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.bytes = 0

    def add(self, size: int) -> bool:
        """False, and nothing added, when it would not fit."""
        if self.bytes + size > self.limit:
            return False
        self.bytes += size
        return True

    @property
    def full(self) -> bool:
        return self.bytes >= self.limit

    def force(self, size: int) -> None:
        """Calls that were let in once already come back whatever the limit."""
        self.bytes += size

    def remove(self, size: int) -> None:
        self.bytes -= size
