"""Sets Python's cyclic garbage collector for a start that makes much and leaves nothing, and for thousands of sockets.

By default a full collection walks every object of every socket each time the number of objects has
grown by a quarter; while everybody reconnects that was a tenth of the time, in pauses that all
clients feel. Called by `windflow serve` once it is ready; an existing application decides for itself.
"""

import gc

YOUNG_OBJECTS = 10_000
"""New objects between two collections of the youngest generation (Python's default: 700)."""
YOUNG_COLLECTIONS = 20
"""Collections of a generation before the next older one is collected, too (Python's default: 10)."""


START_OBJECTS = 50_000
"""New objects between two collections while modules are imported: nothing of those is garbage, and looking for it was a
sixth of the time of a start."""


def spare_the_start() -> None:
    """Collect less often; to be called before anything is imported."""
    gc.set_threshold(START_OBJECTS, YOUNG_COLLECTIONS, YOUNG_COLLECTIONS)


def tune_collector() -> None:
    """Take what the start has made out of every later collection, and collect less often."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS, YOUNG_COLLECTIONS, YOUNG_COLLECTIONS)
