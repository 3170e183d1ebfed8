"""How often a service looks for garbage in cycles: rarely, because everything else waits meanwhile.

Python's own thresholds suit a script. In a service with 200 sessions each look at everything that is alive
took 130 to 270 ms on a busy machine, every other second, and every answer and acknowledgement stood still.
"""

import gc
from typing import Final

THRESHOLDS: Final = (2_000, 20, 50)
"""Objects made and not gone before the youngest are looked at, then looks before the next older ones are.
References alone free nearly everything; what is left are errors with their frames, and what those hold. At
a fifth the older ones are looked at every other second; at five times one look at the youngest is felt."""


def collect_rarely() -> None:
    """Set the process up for a long life; called once everything has been imported and started."""
    gc.collect()
    # What is there now stays: no later look goes through it again.
    gc.freeze()
    gc.set_threshold(*THRESHOLDS)
