"""A fleet of agents that researches a question through one shoal store, goes back to a point and tries another way.

    python examples/research_fleet.py --store /tmp/research --workers 4            # 53 questions, some seconds
    python examples/research_fleet.py --store /tmp/chaos --workers 4 --chaos       # while its processes are killed

The lead asks the first question. Each answer leads to further questions, until there are none (the *survey*). Then the
lead goes on in the most promising direction, and after that rewinds: it forks the run as it was at the end of the
survey, and goes on in the second direction there. At the end it compares both. Model and archive are made up
(``research_model.py``). Everything else is as with real ones:

    TaskQueue    the questions. A worker that dies gives its question to another one at once
    Budget       tokens: a total for the whole research, and a rate for all workers together
    db.once      an order at the archive, which costs money and must not be sent twice
    one commit   a finding, its events and traces, the questions it leads to, what it cost, and the end of its task
    kv.watch     the reporter is told of each finding as it comes, and counts which documents were of use
    state.wait   the lead sleeps until no question is open
    fork_run     at a past version, because the lead knows only later that it wants to go back there

All of it is in the store. So any process may be killed, the lead as well: started again, the research goes on where it
was. The report follows from what was found, and is the same to the byte whatever was killed.

    shoal runs STORE                    research, research/second, and the run ``fleet`` with queue and budgets
    shoal events STORE research         the findings, in the order in which they came
    shoal trace STORE research          the same as traces: a thought, and below it the documents read
    shoal diff STORE research research/second
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from chaos import LEAST_COORDINATORS, LEAST_WORKERS, MOST, Kills, disturb
from research_model import MOST_TOKENS, ROOT_QUESTION, Answer, Archive, ask_model, deeper_questions, documents_for
from research_report import FINDING, FLEET, FORK, RESEARCH, TOKENS, digest_of, findings_of, ranked_directions, report

import shoal
from shoal import TraceType

RATE = "tokens per second"
QUESTIONS = "questions"
OPEN = "open"  # the cell with the number of questions that are not answered
TOLD = "told"  # the cell with the number of findings that the reporter has counted
BEGUN = "begun/"
HISTORY_S = 24 * 3600.0  # so long after the survey the lead can go back to it
# How long a claim outlives a worker that stops to answer, or that dies together with the coordinator.
CLAIM_TTL_S = 3.0
LOOK_S = 0.5
# Between kills. What a process holds that dies together with the coordinator is held until its ttl is over.
PAUSE_S = (0.2, 0.6)


@dataclass(frozen=True)
class Settings:
    """What every process of the fleet is given."""

    invoices: Path
    think_s: float


# --- the worker -----------------------------------------------------------------------------------------------------


def work(settings: Settings) -> None:
    """Answer questions for ever."""
    db = shoal.current_database()
    queue = shoal.TaskQueue(db)
    while (task := queue.claim(FLEET, QUESTIONS, ttl=CLAIM_TTL_S, wait=None)) is not None:
        try:
            with task:
                answer_question(db, task, settings)
        except shoal.FencedError:
            print(f"  {task.payload['question']}: another worker has it by now", flush=True)


def answer_question(db: shoal.Database, task: shoal.Task, settings: Settings) -> None:
    """Order what the model needs, ask it, and share its answer in one commit."""
    question, archive = task.payload["question"], Archive(settings.invoices)
    # An order of a worker that died is in doubt: perhaps it was sent. The invoices tell.
    texts = [
        db.once(FLEET, name, partial(archive.order, name), on_doubt=archive.find_out)
        for name in documents_for(question)
    ]
    budget = shoal.Budget(db)
    try:
        total = budget.reserve(FLEET, TOKENS, MOST_TOKENS, wait=1.0)  # others may give back what they do not need
    except shoal.BudgetExceededError:
        task.release()  # no attempt: who runs the fleet again with more tokens finds the question ready
        raise
    with total, budget.reserve(FLEET, RATE, MOST_TOKENS, wait=None) as rate:
        answer = ask_model(question, texts, settings.think_s)  # no transaction is open meanwhile
        db.transact(task.payload["run"], partial(share, task=task, answer=answer, reservations=(total, rate)))


def share(
    txn: shoal.Transaction, task: shoal.Task, answer: Answer, reservations: tuple[shoal.Reservation, ...]
) -> None:
    """Put an answer into the store, with all that follows from it: all of it, or nothing if the claim is lost."""
    run_id, question = task.payload["run"], task.payload["question"]
    documents = documents_for(question)
    finding = {"text": answer.text, "confidence": answer.confidence, "tokens": answer.tokens, "documents": documents}
    txn.kv.put(FINDING + question, finding)
    txn.events.append("finding", {"question": question, "confidence": answer.confidence})
    txn.traces.record(TraceType.Thought(answer.text, confidence=answer.confidence / 100), id=question)
    for document in documents:
        txn.traces.record_child(
            question, TraceType.ToolCall("read", {"document": document}), id=f"{question}#{document}"
        )
    answered = txn.state.read(OPEN)
    assert answered is not None
    txn.state.set(OPEN, answered.value - 1 + ask(txn, run_id, answer.next_questions))
    fleet = txn.on(FLEET)
    for reservation in reservations:
        fleet.budget.settle(reservation, answer.tokens)
    fleet.queue.complete(task, answer.confidence)


def ask(txn: shoal.Transaction, run_id: str, questions: tuple[str, ...] | list[str]) -> int:
    """Queue those of ``questions`` that nobody has asked in the run before; how many they are."""
    new = [question for question in questions if not txn.kv.exists(f"asked/{question}")]
    for question in new:
        txn.kv.put(f"asked/{question}", True)
        txn.on(FLEET).queue.put(QUESTIONS, {"run": run_id, "question": question})
    return len(new)


# --- the reporter ---------------------------------------------------------------------------------------------------


def tell(run_id: str) -> None:
    """Tell of the findings of a run as they come, and count the documents they are based on, for ever."""
    db = shoal.current_database()
    with db.snapshot(run_id) as view:  # what is there already, and from then on what comes: nothing is left out
        known = view.kv.list_with_values(FINDING)
        changes = shoal.KVStore(db).watch(run_id, FINDING, since=view.version)
        for key, finding in known:
            db.transact(digest_of(run_id), partial(count, key=key, documents=finding["documents"]))
    for change in changes:
        told = db.transact(digest_of(run_id), partial(count, key=change.key, documents=change.value["documents"]))
        print(f"  {told:3} {change.value['confidence']:3}%  {change.value['text']}", flush=True)


def count(txn: shoal.Transaction, key: str, documents: list[str]) -> int:
    """Count the documents of a finding, once; the number of findings counted."""
    cell = txn.state.read(TOLD)
    told = 0 if cell is None else int(cell.value)
    if txn.kv.exists(f"told/{key}"):
        return told  # counted by a reporter that was killed since
    txn.kv.put(f"told/{key}", True)
    for document in documents:
        txn.kv.increment(f"use/{document}")
    txn.state.set(TOLD, told + 1)
    return told + 1


# --- the lead -------------------------------------------------------------------------------------------------------


class Lead:
    """What plans the research, and waits for the others. Each step does nothing if it was done before."""

    def __init__(self, pool: shoal.WorkerPool, settings: Settings, workers: int) -> None:
        self._db = pool.database
        self._pool = pool
        self._others: list[Future[None]] = [pool.submit(work, settings) for _ in range(workers)]

    def plan(self, tokens: int, rate: int) -> None:
        """Register the runs and the budgets, or set their limits anew."""
        runs, budget = shoal.RunIndex(self._db), shoal.Budget(self._db)
        for run_id in (FLEET, RESEARCH):
            if runs.get_run(run_id) is None:
                runs.create_run(run_id=run_id)
        for name, limit, refill in ((TOKENS, tokens, 0), (RATE, max(rate, MOST_TOKENS), rate)):
            try:
                budget.create(FLEET, name, limit, refill_per_s=refill)
            except shoal.AlreadyExistsError:
                budget.adjust(FLEET, name, limit)

    def research(self) -> None:
        """The survey, then the first direction, then back to the end of the survey and the second direction."""
        self._others.append(self._pool.submit(tell, RESEARCH))
        self._begin(RESEARCH, "the survey", [ROOT_QUESTION])
        first, second = ranked_directions(self._db)[:2]
        # Nothing of the research changes between the survey and this commit. So the snapshot's version is the point.
        with self._db.snapshot(RESEARCH) as view:
            end_of_survey = view.version
        self._begin(RESEARCH, first, deeper_questions(first), point=end_of_survey)
        if shoal.RunIndex(self._db).get_run(FORK) is None:
            point = shoal.KVStore(self._db).get(RESEARCH, BEGUN + first)["point"]
            shoal.RunIndex(self._db).fork_run(RESEARCH, new_run_id=FORK, version=point)
        self._others.append(self._pool.submit(tell, FORK))
        self._begin(FORK, second, deeper_questions(second))

    def end(self) -> None:
        """Wait for the reporters, complete the runs, and end the others: they wait for what will not come."""
        runs = shoal.RunIndex(self._db)
        for run_id in (RESEARCH, FORK):
            self._wait_until(digest_of(run_id), TOLD, len(findings_of(self._db, run_id)))
            run = runs.get_run(run_id)
            if run is not None and run.status is shoal.RunStatus.Active:
                runs.complete_run(run_id)
        for other in self._others:
            self._pool.cancel(other, kill=True)

    def _begin(self, run_id: str, name: str, questions: list[str], **facts: int) -> None:
        """Ask ``questions``, if that was not done before, and wait until nothing is open."""

        def begin(txn: shoal.Transaction) -> bool:
            if txn.kv.exists(BEGUN + name):
                return False
            txn.kv.put(BEGUN + name, facts)
            txn.state.set(OPEN, ask(txn, run_id, questions))
            return True

        is_new = self._db.transact(run_id, begin)
        before = len(findings_of(self._db, run_id))
        print(f"{run_id}: {name}, {'begun' if is_new else 'begun before'}, {before} findings so far", flush=True)
        self._wait_until(run_id, OPEN, 0)

    def _wait_until(self, run_id: str, name: str, value: int) -> None:
        """Wait until a cell has ``value``. What ends a worker or a reporter, which work for ever, is raised."""
        cells = shoal.StateCell(self._db)
        state = cells.read(run_id, name)
        while state is None or state.value != value:
            for other in self._others:
                if other.done():
                    other.result()
            state = cells.wait(run_id, name, 0 if state is None else state.version, timeout=LOOK_S) or state


# --- the command line -----------------------------------------------------------------------------------------------


def main(arguments: list[str] | None = None) -> int:
    """Research, and print the report; 0 if all went well."""
    options = _parser().parse_args(arguments)
    if options.chaos:
        return _under_chaos(options, sys.argv[1:] if arguments is None else arguments)
    store = options.store.absolute()
    settings = Settings(store.with_name(store.name + ".invoices"), options.think)
    # Two more than answer questions: the reporters are tasks of the pool, too.
    with shoal.WorkerPool(store, workers=options.workers + 2, retries=MOST, history=HISTORY_S) as pool:
        db = pool.database
        try:
            with db.lease(FLEET, "lead", ttl=CLAIM_TTL_S, wait=2 * CLAIM_TTL_S):
                lead = Lead(pool, settings, options.workers)
                lead.plan(options.tokens, options.rate)
                lead.research()
                lead.end()
        except shoal.LeaseHeldError:
            return _failed(f"another process leads this research; wait for it, or give another store than {store}")
        except shoal.BudgetExceededError as error:
            pool.kill()
            return _failed(f"the budget of {options.tokens:,} {error.name} is used up; run again with more --tokens")
        except BaseException:
            pool.kill()  # leaving the block waits for its tasks, and these have no end
            raise
        text = report(db, Archive(settings.invoices))
    if options.report is not None:
        options.report.write_text(text, encoding="utf-8")
    print(text, end="")
    return 0


def _failed(text: str) -> int:
    print(f"research_fleet: {text}", file=sys.stderr)
    return 1


def _under_chaos(options: argparse.Namespace, arguments: list[str]) -> int:
    """Run the fleet in a process of its own; kill workers, reporters and coordinators, then the lead, then again."""
    print(f"chaos: seed {options.seed}", file=sys.stderr)
    command = [sys.executable, __file__, *(word for word in arguments if word != "--chaos")]
    store, kills = options.store.absolute(), Kills()
    with subprocess.Popen(command) as run:
        disturb(run, store, options.seed, kills, LEAST_WORKERS + LEAST_COORDINATORS, PAUSE_S)
        run.kill()
    lead_killed = run.returncode < 0
    if lead_killed:
        with subprocess.Popen(command) as run:
            disturb(run, store, options.seed + 1, kills, MOST)
    killed = f"{kills.workers} workers, {kills.coordinators} coordinators and {'the' if lead_killed else 'no'} lead"
    print(f"chaos: killed {killed}", file=sys.stderr)
    if run.returncode == 0 and not (kills.enough and lead_killed):
        return _failed("the research was done before enough was killed, which proves little; give it a new store")
    return run.returncode


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Research a question with a fleet of agents that share one store.")
    parser.add_argument("--store", type=Path, required=True, metavar="DIR", help="the store; made if missing")
    parser.add_argument("--workers", type=_positive, default=os.cpu_count() or 1, metavar="N")
    parser.add_argument("--report", type=Path, metavar="FILE", help="write the report to a file, too")
    parser.add_argument(
        "--tokens", type=_positive, default=50_000, metavar="N", help="for all answers together (50000)"
    )
    parser.add_argument("--rate", type=_positive, default=20_000, metavar="N", help="tokens per second (20000)")
    parser.add_argument("--think", type=float, default=0.3, metavar="S", help="how long the model thinks (0.3 seconds)")
    parser.add_argument("--chaos", action="store_true", help="kill the fleet's processes meanwhile; Linux only")
    parser.add_argument("--seed", type=int, default=random.randrange(2**32), metavar="N", help="of the chaos (random)")
    return parser


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is not 1 or more")
    return number


if __name__ == "__main__":
    sys.exit(main())
