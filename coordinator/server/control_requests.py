"""Control requests: what a client asks beside commits, and answers that come later. ``presence.asked`` has the list.

A client has one request under way. ``wait``, ``changes`` and ``in_line`` are answered when something happens: a commit
wakes those that wait for what it wrote, after it is published, in the order in which they came. All of it is in the
coordinator's memory only; after its death the clients ask the next one.

A line is of one operation on one key, in the order in which clients asked for it. Each says when, so the order is the
same under the next coordinator. When something that it waits for is written, its requests are decided again, up to one
that still has to wait. If what that one raises passes by itself (``passes_in_ms``), the line is decided again at that
time. One that arrives behind others is not decided, so nobody overtakes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, NamedTuple

from sortedcontainers import SortedDict

from shoal.coordinator.commit.conflict_window import ConflictWindow
from shoal.coordinator.commit.engine import CommitEngine
from shoal.coordinator.presence import asked
from shoal.coordinator.presence.asked import answered, told
from shoal.coordinator.presence.changes import Changes, Page, Watched
from shoal.coordinator.presence.deadlines import Deadlines
from shoal.coordinator.presence.holders import Holders
from shoal.coordinator.presence.waiters import KeyRange, Waiters
from shoal.coordinator.server.checks import Checks
from shoal.coordinator.server.clients import Client
from shoal.shm.operation import PAST, Write
from shoal.shm.wire.request import CommitSet

Answers = list[tuple[Client, bytes]]
Line = tuple[str, bytes]  # the operation and its first argument


class _Pending(NamedTuple):
    """A request that is answered later."""

    client: Client
    request: CommitSet
    line: Line | None  # None of one that only waits
    watched: Watched | None = None  # what to tell one that waits for changes
    place: tuple[int, int] = (0, 0)  # in its line: when it asked first (monotonic, in us), then in the order of arrival


class ControlRequests:
    """Answers control requests. ``is_active``: somebody waits or holds something, so turns end with ``after_turn``."""

    def __init__(
        self,
        engine: CommitEngine,
        window: ConflictWindow,
        checks: Checks,
        holders: Holders,
        changes: Changes,
        past_version: Callable[[int | None, int | None], list[int]],
    ) -> None:
        self._engine, self._window, self._batched = engine, window, engine.operations.batched
        self._checks, self._holders, self._changes, self._past_version = checks, holders, changes, past_version
        self._waiters = Waiters()  # the targets are waiting clients and the keys of lines
        self._pending: dict[Client, _Pending] = {}
        self._lines: dict[Line, SortedDict] = {}  # of each: what is pending by its place
        self._stirred: dict[Line, None] = {}  # lines that somebody has left
        self._late: Deadlines[Client] = Deadlines()  # when a client has waited for long enough
        self._passing: Deadlines[Line] = Deadlines()  # when a line is decided again, whatever is written
        self._now_s, self._numbers, self._seen = 0.0, 0, 0  # _seen: up to this version they know everything
        self._answers: Answers = []
        self.is_active = len(holders) > 0
        engine.watch_own_writes(self._note_own_write)

    def answer(self, client: Client, request: CommitSet, now_s: float) -> bytes | None:
        """The answer; empty if it comes later, None if there is no such request."""
        assert request.control is not None
        name, arguments = request.control
        try:
            understand, answer = self._ANSWER[name]
            understood = understand(request, arguments)
        except (TypeError, ValueError, LookupError):
            return None
        if client in self._pending:
            self.forget(client)  # it has given up waiting
        self.is_active = True
        self._now_s = now_s
        self._holders.end_gone()  # what they held is free for this client already
        return answer(self, client, request, now_s, *understood)

    def is_free(self, client: Client, request: CommitSet) -> bool:
        """Whether it may go with the commits of its turn: nobody waits before it, and no holder has just gone."""
        operations, control = request.operations, request.control
        if control is None or control[0] != "in_line" or len(operations) != 1 or client in self._pending:
            return False
        ((name, (key, *_)),) = operations
        return name in self._batched and (name, key) not in self._lines and not self._holders.has_gone

    def forget(self, client: Client) -> None:
        """A client is gone or does not wait any more."""
        self._checks.forget(client)
        pending = self._pending.pop(client, None)
        if pending is None:
            return
        self._late.drop(client)
        if pending.line is None:
            self._waiters.remove(client)
        else:
            line = self._lines[pending.line]
            del line[pending.place]
            if line:
                self._stirred[pending.line] = None  # the next one may not have to wait
            else:
                self._remove_line(pending.line)

    def gone(self, database_id: int) -> None:
        """The last client of an open database is gone."""
        self._holders.gone(database_id)
        self._changes.gone(database_id)

    def due_in_s(self, now_s: float) -> float:
        """How long there is nothing to do for ``after_turn`` unless something is committed."""
        first_s = min(self._late.first_s(), self._passing.first_s())
        return max(0.0, min(first_s - now_s, self._holders.due_in_s()))

    def is_due(self, now_s: float) -> bool:
        """Whether ``after_turn`` has something to do; asked after each turn while ``is_active``."""
        if self._pending or self._stirred or self._answers or not len(self._holders):  # the last: it ends ``is_active``
            return True
        return self._holders.may_be_due(now_s)

    def after_turn(self, now_s: float, read_s: float) -> Answers:
        """End holders and late waits, wake who waits for commits; what to send. All pipes were read at ``read_s``."""
        self._now_s = now_s
        if self._holders.may_be_due(now_s):
            self._holders.end_due(read_s)
        while (line := self._passing.pop_due(now_s)) is not None:
            self._stirred[line] = None
        self._wake()
        while (client := self._late.pop_due(now_s)) is not None:
            self._end_late(self._pending[client])
            self._wake()
        self._engine.finish_group()
        answers, self._answers = self._answers, []
        self.is_active = bool(self._pending or len(self._holders))
        return answers

    def advanced(self) -> Answers:
        """To those that wait for changes: how far there were none. Their position may have been left behind long ago.

        Sent before log files go, so that whoever waits can go on from those that stay, under another coordinator, too.
        """
        answers = []
        for client, pending in list(self._pending.items()):
            if pending.watched is not None and pending.watched.version < self._seen:
                answers.append((client, told(pending.request, Page(self._seen, b"", False, []))))
                self.forget(client)
        return answers

    # --- what is asked ---

    def _check(self, client: Client, request: CommitSet, now_s: float, arguments: list[Any]) -> bytes | None:
        self._engine.finish_group()
        answer = self._checks.answer(client, arguments, self._engine.published, now_s)
        return None if answer is None else answered(request, answer)

    def _wait(
        self, client: Client, request: CommitSet, now_s: float, since: int, ranges: list[KeyRange], longest_ms: int
    ) -> bytes:
        changed = self._window.may_have_changed(ranges, since)
        if changed or not longest_ms:
            return answered(request, [int(changed)])
        self._add_waiter(client, ranges)
        self._note(_Pending(client, request, None), longest_ms, now_s)
        return b""

    def _changed(self, client: Client, request: CommitSet, now_s: float, watched: Watched, longest_ms: int) -> bytes:
        page = self._page_of(client, watched, watched.version)
        if page.changes or page.is_lost or page.version < self._engine.published or not longest_ms:
            return told(request, page)
        self._add_waiter(client, [(watched.lower, watched.upper)])
        self._seen = min(self._seen, self._engine.published)  # of this turn nothing was looked at yet
        self._note(_Pending(client, request, None, watched), longest_ms, now_s)
        return b""

    def _page_of(self, client: Client, watched: Watched, version: int) -> Page:
        """The next page of a watch, which has been told up to ``version`` at least; what may follow it is kept."""
        after = watched.after if version == watched.version else b""
        page = self._changes.page(watched.lower, watched.upper, version, after, self._engine.published)
        if page.changes or (page.version < self._engine.published and not page.is_lost):
            self._changes.keep(client.database_id, watched.watch, page.version)
        else:
            self._changes.forget(client.database_id, watched.watch)
        return page

    def _keep(self, client: Client, request: CommitSet, now_s: float, watch: int, versions: list[int]) -> bytes:
        self._changes.forget(client.database_id, watch)
        for version in versions:
            self._changes.keep(client.database_id, watch, version)
        return answered(request, [])

    def _in_line(
        self, client: Client, request: CommitSet, now_s: float, ranges: list[KeyRange], longest_ms: int, asked_us: int
    ) -> bytes:
        key = (request.operations[0][0], request.operations[0][1][0])
        if key in self._lines:
            self._serve(key)
        self._numbers += 1
        place = (asked_us, self._numbers)
        is_behind = key in self._lines and self._lines[key].peekitem(0)[0] < place
        if not (is_behind and longest_ms and self._engine.outcome(client.client_id, request.commit_id) is None):
            answer = self._submit(client, request, key if longest_ms else None, key in self._lines)
            if answer:
                return answer
        if key not in self._lines:
            self._lines[key] = SortedDict()
            self._add_waiter(key, ranges)
        pending = self._lines[key][place] = _Pending(client, request, key, place=place)
        self._note(pending, longest_ms, now_s)
        return b""

    def _leave(self, client: Client, request: CommitSet, now_s: float) -> bytes:
        return self._submit(client, request)

    def _past(
        self, client: Client, request: CommitSet, now_s: float, version: int | None, moment_us: int | None
    ) -> bytes:
        self._engine.finish_group()
        return answered(request, self._past_version(version, moment_us))

    def _renew(self, client: Client, request: CommitSet, now_s: float) -> bytes:
        return answered(request, [int(self._holders.renew(client.database_id))])

    def _ages(self, client: Client, request: CommitSet, now_s: float, *holders: int) -> bytes:
        return answered(request, [self._holders.age_ms(holder) for holder in holders])

    # By name: what makes the arguments of the second out of a request, or raises; and what answers it.
    _ANSWER: ClassVar[dict[str, tuple[Callable[[CommitSet, Any], Sequence[Any]], Callable[..., bytes | None]]]] = {
        "check": (lambda _, arguments: [arguments], _check),
        "wait": (lambda _, arguments: asked.understood(arguments, asked.whole, asked.ranges, asked.wait_ms), _wait),
        "changes": (lambda _, arguments: asked.understood_changes(arguments), _changed),
        "keep": (lambda _, arguments: asked.understood_keep(arguments), _keep),
        "in_line": (lambda request, arguments: asked.understood_in_line(request, arguments), _in_line),
        "leave": (lambda _, arguments: asked.understood(arguments), _leave),
        PAST: (lambda _, arguments: asked.understood_past(*arguments), _past),
        "renew": (lambda _, arguments: asked.understood(arguments), _renew),
        "ages": (lambda _, arguments: [asked.whole(holder) for holder in arguments], _ages),
    }

    def _note_own_write(self, write: Write) -> None:
        self._holders.note(write)
        self.is_active = True

    def _add_waiter(self, target: Any, ranges: list[KeyRange]) -> None:
        if not self._waiters:
            self._seen = self._engine.version  # nobody waits for what is older
        self._waiters.add(target, ranges)

    def _note(self, pending: _Pending, longest_ms: int, now_s: float) -> None:
        self._pending[pending.client] = pending
        if longest_ms < asked.LONGEST_MS:
            self._late.set(pending.client, now_s + longest_ms / 1000)

    def _wake(self) -> None:
        """Answer or decide all that wait for what was committed. What that commits may wake others."""
        stirred, self._stirred = self._stirred, {}
        for key in stirred:
            if key in self._lines:
                self._serve(key)
        while self._seen < self._engine.version:
            since, self._seen = self._seen, self._engine.version
            for target in self._waiters.touched(self._window, since):
                if isinstance(target, Client):
                    self._tell(target, since)
                else:
                    self._serve(target)  # type: ignore[arg-type]

    def _tell(self, client: Client, since: int) -> None:
        """Something was written after version ``since`` that a client waits for."""
        request, watched = (pending := self._pending[client]).request, pending.watched
        if watched is None:
            answer = answered(request, [1])
        else:
            self._engine.finish_group()
            page = self._page_of(client, watched, max(since, watched.version))
            if not page.changes and not page.is_lost and page.version >= self._engine.published:
                return  # a range was cleared that holds nothing
            answer = told(request, page)
        self._late.drop(client)
        del self._pending[client]
        self._waiters.remove(client)
        self._answers.append((client, answer))

    def _serve(self, key: Line) -> None:
        """Decide the requests of a line, up to the first that still has to wait."""
        line = self._lines[key]
        for place, pending in list(line.items()):
            answer = self._submit(pending.client, pending.request, key)
            if not answer:
                return
            self._answers.append((pending.client, answer))
            self._late.drop(pending.client)
            del line[place], self._pending[pending.client]
        self._remove_line(key)

    def _remove_line(self, key: Line) -> None:
        del self._lines[key]
        self._waiters.remove(key)
        self._passing.drop(key)

    def _end_late(self, pending: _Pending) -> None:
        """The time of a request is up."""
        watched = pending.watched
        if watched is not None:
            answer = told(pending.request, self._page_of(pending.client, watched, max(self._seen, watched.version)))
        elif pending.line is None:
            answer = answered(pending.request, [0])
        else:
            self._serve(pending.line)
            if self._pending.get(pending.client) is not pending:
                return
            answer = self._submit(pending.client, pending.request, None, True)
        self._answers.append((pending.client, answer))
        self.forget(pending.client)

    def _submit(self, client: Client, request: CommitSet, line: Line | None = None, is_behind: bool = False) -> bytes:
        """The answer; empty if the request has to wait in ``line``. ``is_behind`` others that have to wait just now."""
        client.page.note_work(1)
        wait = None if line is None else lambda error: self._note_line(line, error.passes_in_ms)
        submit = self._engine.submit_behind if is_behind else self._engine.submit
        answer = submit(client.client_id, request, wait)
        client.page.note_work(0)
        return answer

    def _note_line(self, line: Line, passes_in_ms: int | None) -> None:
        """The first of a line has to wait; for so long at most, if that is known."""
        if passes_in_ms is None:
            self._passing.drop(line)
        else:
            self._passing.set(line, self._now_s + max(1, passes_in_ms) / 1000)
