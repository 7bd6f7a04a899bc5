"""What a server can do wrong, one table row each, and what a client must make of it.

Knows nothing of kvlab but the names of its labels: any client of the API can be held against it.
"""

from .fault import CLOSE, GOOD, HANG, KEY, RESET, Endless, Fault
from .server import FaultServer
from .status import STATUS
from .stream import STREAM
from .wire import WIRE

FAULTS: dict[str, Fault] = {fault.name: fault for fault in (*WIRE, *STATUS, *STREAM)}
assert len(FAULTS) == len(WIRE) + len(STATUS) + len(STREAM), "each name once"

__all__ = ["CLOSE", "FAULTS", "GOOD", "HANG", "KEY", "RESET", "Endless", "Fault", "FaultServer"]
