"""Progress of a command and the time that is left, in words."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any

from lrjax.messages import counted

_WINDOW = 60.0  # seconds whose speed is taken for that of the rest
_SHORTEST = 4.0  # seconds that must have been seen of it
_SILENT = 30.0  # seconds without news that are worth a word
_STATES = {
    "training": "Training",
    "ended": "Ended",
    "failed": "Failed",
    "stopped": "Stopped",
}
_SPOKEN = 10  # percent between two announcements


class Clock:
    """Tells from the last minute of a training when it will end."""

    def __init__(self):
        self._seen: deque[tuple[float, float]] = deque()

    def note(self, progress: Mapping[str, Any]) -> None:
        """Take what a progress.json says, whenever it says something else."""
        at = float(progress["written"])
        done = float(progress["updates_done"] - progress["updates_before"])
        if self._seen and (at < self._seen[-1][0] or done < self._seen[-1][1]):
            self._seen.clear()  # another command, or blocks that must be trained again
        if not self._seen or at > self._seen[-1][0]:
            self._seen.append((at, done))
        while at - self._seen[0][0] > _WINDOW:
            self._seen.popleft()

    def left(self, progress: Mapping[str, Any]) -> float | None:
        """Seconds until all updates are done; None if nothing tells."""
        if not self._seen:
            return None
        (since, before), (until, after) = self._seen[0], self._seen[-1]
        if until - since < _SHORTEST or after <= before:
            return None
        speed = (after - before) / (until - since)
        return max(0.0, progress["updates"] - progress["updates_done"]) / speed


def share(progress: Mapping[str, Any]) -> float:
    """The part of all updates that is done, from 0 to 1."""
    updates = progress["updates"]
    return min(1.0, max(0.0, progress["updates_done"] / updates)) if updates else 0.0


def sentence(progress: Mapping[str, Any], left: float | None, now: float) -> str:
    """State, runs, updates and time left in a sentence.

    Args:
      progress: content of progress.json.
      left: as returned by `Clock.left`.
      now: seconds since 1970.
    """
    state = str(progress["state"])
    parts = [_STATES.get(state, state)]
    if state == "training" and progress["what"]:
        parts[0] += f" {progress['what']}"
    done, runs = round(progress["runs_done"]), round(progress["runs"])
    parts.append(f"{done:,} of {counted(runs, 'run')} done")
    parts.append(f"{100 * share(progress):.0f} % of all updates")
    silent = now - progress["written"]
    if state != "training":
        return ", ".join(parts)
    if silent > _SILENT:
        parts.append(
            f"no news for {duration(silent)}: a program compiles or a measurement is "
            "far off, or the training was killed"
        )
    elif left is None:
        parts.append("estimating the time left (programs compile first)")
    else:
        parts.append(f"about {duration(left)} left")
    return ", ".join(parts)


def announced(progress: Mapping[str, Any]) -> str:
    """Text to read aloud: changes at every tenth of the training, and at its end."""
    state = str(progress["state"])
    tenth = int(100 * share(progress)) // _SPOKEN * _SPOKEN
    word = _STATES.get(state, state)
    return f"{word}, {tenth} % done" if state == "training" else word


def duration(seconds: float) -> str:
    """A time in words, coarser the longer it is.

    Example:
      >>> [duration(s) for s in (0.4, 44, 100, 5400, 200000)]
      ['1 s', '44 s', '2 min', '1.5 h', '2.3 days']
    """
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    if seconds < 90 * 60:
        return f"{round(seconds / 60)} min"
    if seconds < 36 * 3600:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 86400:.1f} days"
