"""How long OpenMP's threads spin before they sleep, as cli/waiting.h has it for the program: its own default loses most of
the time on a busy machine. Read when the library is loaded, so before anything else is imported."""

from __future__ import annotations

import os
import time

_SPINS_ALONE, _SPINS_BUSY = "20000", "200"
_LOOKS = 5


def is_busy(load: str, cores: int) -> bool:
    """Do other processes hold all cores? load: /proc/loadavg, whose fourth field counts what can run now, with us."""
    fields = load.split()
    running = fields[3].split("/")[0] if len(fields) > 3 and "/" in fields[3] else ""
    return running.isdigit() and int(running) - 1 >= cores


def _is_busy_now() -> bool:
    busy = 0
    for look in range(_LOOKS):
        if look > 0:
            time.sleep(0.001)
        try:
            with open("/proc/loadavg", encoding="ascii") as file:
                busy += is_busy(file.read(), os.cpu_count() or 1)
        except OSError:
            return False
    return 2 * busy > _LOOKS


def bound_spinning() -> None:
    """What the user set stays."""
    if "OMP_WAIT_POLICY" not in os.environ and "GOMP_SPINCOUNT" not in os.environ:
        os.environ["GOMP_SPINCOUNT"] = _SPINS_BUSY if _is_busy_now() else _SPINS_ALONE
