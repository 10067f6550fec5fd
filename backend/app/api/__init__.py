"""REST under /api/v1: reads requests, asks operations, shapes answers."""
