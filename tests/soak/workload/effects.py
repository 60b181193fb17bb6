"""Effects outside the store: ``once`` by all workers with few keys, so that whoever is killed leaves doubt to others.

The effect is a line in the ledger of its worker, which a SIGKILL does not take back: ``i act`` says that the function
was called, ``a act`` that the effect took place, ``f act`` that it did not and will not. The function takes its time
before and after, with ``IN_EFFECT`` set in the worker's slot, so that the soak can kill it between intent and result.

What a call was told is acknowledged as its result. A refusal says why: ``doubt`` and since when, ``fenced`` or
``failed``.
"""

from __future__ import annotations

import time
from typing import Any

import shoal
from tests.soak import ledger
from tests.soak.workload import names
from tests.soak.workload.worker import Noting

DOUBT, FENCED, FAILED = "doubt", "fenced", "failed"
ACT, FOUND_OUT = "act", "found out"  # what results begin with
RAISE, RETRY, FIND_OUT = "raise", "retry", "find out"
_MODES = {RAISE: 6, RETRY: 1, FIND_OUT: 2}
_FAILS = 0.1
_DWELL_S = 0.02  # on average, before the effect, and again after it


class _EffectFailedError(Exception):
    """Nothing happened, and the function says so."""


class EffectWorker(Noting):
    """A worker that has effects outside the store."""

    def _once(self) -> None:
        """Have an effect once, however many ask for it, and whatever was in doubt."""
        at = int((time.monotonic() - self._began) / names.EFFECT_LIFE_S)
        key = names.effect_key(at, self._rng.randrange(names.EFFECTS_AT_A_TIME))
        mode = self._rng.choices(list(_MODES), list(_MODES.values()))[0]
        assert self._ledger is not None
        number = self._number
        self._ledger.write("i", "once", number, [key, mode])
        try:
            told = self._db.once(self._run, key, lambda: self._act(key), on_doubt=self._on_doubt(mode))
        except shoal.InDoubtError as error:
            self._ledger.write("f", "once", number, [DOUBT, error.started_at])
        except shoal.FencedError:
            self._ledger.write("f", "once", number, [FENCED])
        except _EffectFailedError:
            self._ledger.write("f", "once", number, [FAILED])
        else:
            self._ledger.write("a", "once", number, told)
            self._count_commit()

    def _act(self, key: str) -> list[Any]:
        """The function: its result says who had the effect, and in which call."""
        assert self._ledger is not None
        self._slot[ledger.IN_EFFECT] = 1
        try:
            self._ledger.write("i", "act", self._number, key)
            self._dwell()
            if self._rng.random() < _FAILS:
                self._ledger.write("f", "act", self._number, None)
                raise _EffectFailedError(key)
            self._ledger.write("a", "act", self._number, None)
            self._dwell()
        finally:
            self._slot[ledger.IN_EFFECT] = 0
        return [ACT, self._who, self._number]

    def _on_doubt(self, mode: str) -> Any:
        if mode != FIND_OUT:
            return mode
        result = [FOUND_OUT, self._who, self._number]
        return lambda _key: result

    def _dwell(self) -> None:
        time.sleep(self._rng.expovariate(1 / _DWELL_S))
