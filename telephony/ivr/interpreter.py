"""Walks a tree on a call. Written once, on the `CallSession` port: a simulated call and a real one run this.

Bounds: `MAX_NODES` nodes a call, the tree's `max_seconds` (not counting what is spent with a person), and a
deadline on every single wait. What goes wrong in a node leads to the tree's agent once, then to an apology.
What it never does: evaluate anything, open a file, or put a secret where it stays.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from typing import Final, TypeVar

import structlog

from telephony.errors import CallEnded, TelephonyError
from telephony.ivr.digits import compile_pattern, passes_luhn
from telephony.ivr.foresight import first_words, fixed_words, outlook, words_of
from telephony.ivr.hours import timetable
from telephony.ivr.journal import Journal, Visit
from telephony.ivr.ports import (
    CallbackOrder,
    CallFacts,
    QueueEnd,
    QueueOrder,
    SurveyAnswer,
    TransferEnd,
    TransferOrder,
    WebhookOrder,
)
from telephony.ivr.saying import fill, render, sayings_of
from telephony.ivr.sounds import Sounds
from telephony.ivr.standins import Services
from telephony.ivr.talk import Talk
from telephony.ivr.tree import (
    BACK,
    DIALPLAN,
    HANGUP,
    REPEAT,
    RETURN,
    Asking,
    Bot,
    Callback,
    CallerCase,
    Case,
    Collect,
    Condition,
    Goto,
    Hangup,
    HoursCase,
    Language,
    Lookup,
    Menu,
    Node,
    Prompt,
    Queue,
    Record,
    Say,
    Saying,
    Set,
    Subtree,
    Survey,
    Transfer,
    Tree,
    Webhook,
)
from telephony.model import prompt as said
from telephony.pbx.port import CallSession

MAX_NODES: Final = 200
"""Nodes of one call."""

MAX_FRAMES: Final = 8
"""Subtrees in subtrees."""

WITH_A_PERSON: Final = 3600.0
"""Seconds that a call may last once it is with a person."""

OVERRUN: Final = 1.0
"""Seconds that a port may take beyond the deadline it was given."""

MAX_VALUE: Final = 500
"""Characters of a variable."""

_INVALID: Final = "ivr.invalid"
_UNAVAILABLE: Final = "ivr.unavailable"
_GOODBYE: Final = "common.goodbye"
_APOLOGY: Final = "common.apology"
_UNSAFE: Final = re.compile(r"[^\w .:+@/-]")

log = structlog.get_logger(__name__)

End = TypeVar("End")


@dataclass(frozen=True, slots=True)
class Ending:
    """How a call left its tree: `result` is what TELEPHONY_RESULT said; `keys` has secrets as a mark.

    `values` are the variables that are no secrets. `with_dialplan` is True where the call goes on there.
    """

    result: str
    node: str
    keys: str
    language: str
    values: Mapping[str, str] = field(repr=False)
    visits: tuple[Visit, ...] = field(repr=False)
    with_dialplan: bool = False


@dataclass(frozen=True, slots=True)
class _Way:
    """What came of a node: an outcome in a word, and where it leads. `result` ends the call."""

    outcome: str
    target: str = HANGUP
    result: str = ""


@dataclass(slots=True)
class _Frame:
    """A tree that is being walked; `origin` ran it and goes on at `after`; `menus` are the way back."""

    tree: Tree
    origin: str = ""
    after: str = ""
    menus: list[str] = field(default_factory=list)


class Interpreter:
    """One call in one tree. `trees` are those that subtrees name, as they were when the call came.

    Where it is `crowded`, questions begin with their short form, and the tree can look at `{crowded}`.
    """

    def __init__(
        self,
        tree: Tree,
        session: CallSession,
        sounds: Sounds,
        services: Services,
        *,
        trees: Mapping[str, Tree] | None = None,
        variables: Mapping[str, object] | None = None,
        language: str = "",
        crowded: bool = False,
        watch: Callable[[Visit], None] | None = None,
    ) -> None:
        self._session = session
        self._crowded = crowded
        self._sounds = sounds
        self._services = services
        self._trees = trees or {}
        self._journal = Journal(session.id, watch)
        self._talk = Talk(session, sounds, self._journal)
        self._frames = [_Frame(tree)]
        self._language = language if language in tree.languages else tree.languages[0]
        self._priority = 0
        self._secrets: set[str] = set()
        self._exported: set[str] = set()
        self._values: dict[str, str] = {}
        self._declare(tree)
        for name, value in (variables or {}).items():
            if name in self._values:
                self._values[name] = text_of(value)
        self._node = tree.start
        self._over_at = 0.0
        self._rescued = False

    @property
    def keys(self) -> str:
        """Every key so far, secrets as a mark."""
        return self._journal.keys

    @property
    def language(self) -> str:
        """In which language it is spoken now."""
        return self._language

    @property
    def visits(self) -> tuple[Visit, ...]:
        """Every node so far."""
        return tuple(self._journal.visits)

    async def run(self) -> Ending:
        """Walk to the end; the call stands then, for the caller of this to end. Raises `CallEnded`."""
        loop = asyncio.get_running_loop()
        self._over_at = loop.time() + self._frames[0].tree.max_seconds
        for _ in range(MAX_NODES):
            if loop.time() > self._over_at:
                return await self._give_up("too_long")
            way = await self._visit()
            ending = await self._follow(way)
            if ending is not None:
                return ending
        return await self._give_up("too_many_nodes")

    # ---- walking

    async def _visit(self) -> _Way:
        """Enter a node, and write down what came of it, whatever that is."""
        node = self._tree.nodes[self._node]
        at_ms = int(self._services.clock.now().timestamp() * 1000)
        self._journal.begin(self._tree.name, self._node, node.type, at_ms)
        self._foresee()
        way = _Way("hung_up", "")
        try:
            way = await self._do(node)
        except CallEnded:
            raise
        except TelephonyError as error:
            log.error("ivr.node_failed", call=self._session.id, node=self._node, error=str(error))
            way = self._rescue()
        finally:
            self._journal.end(way.outcome, way.target)
        return way

    async def _follow(self, way: _Way) -> Ending | None:
        """Go where a way leads; an `Ending` where the call leaves the tree."""
        if way.target == DIALPLAN:
            return self._ending(way.result, with_dialplan=True)
        target, result = way.target, way.result or "completed"
        while target == RETURN and len(self._frames) > 1:
            frame = self._frames.pop()
            self._node, target = frame.origin, frame.after
        if target == BACK:
            target = self._back()
        if target == REPEAT:
            target = self._node
        if target in (HANGUP, RETURN):
            self._hand_back(result)
            return self._ending(result)
        self._node = target
        return None

    def _back(self) -> str:
        """The menu before; from the first menu of a subtree, the last one of its caller."""
        menus = self._frames[-1].menus
        if menus and menus[-1] == self._node:
            if len(menus) > 1:
                menus.pop()
            elif len(self._frames) > 1:
                self._frames.pop()
                menus = self._frames[-1].menus
        return menus[-1] if menus else self._tree.start

    def _rescue(self) -> _Way:
        """Where a call goes whose node failed: to a person once, then out."""
        agent = self._tree.agent
        if agent is not None and not self._rescued and agent != self._node:
            self._rescued = True
            return _Way("failed", agent)
        return _Way("failed", HANGUP, "failed")

    async def _give_up(self, result: str) -> Ending:
        """End a call that has gone on too long."""
        log.warning("ivr.given_up", call=self._session.id, tree=self._tree.name, reason=result)
        with suppress(TelephonyError):
            await self._phrase(_APOLOGY)
        self._hand_back(result)
        return self._ending(result)

    def _ending(self, result: str, *, with_dialplan: bool = False) -> Ending:
        public = {name: value for name, value in self._values.items() if name not in self._secrets}
        return Ending(result, self._node, self.keys, self._language, public, self.visits, with_dialplan)

    def _hand_back(self, result: str) -> None:
        """Tell the dialplan how it was."""
        facts = {
            "TELEPHONY_RESULT": result,
            "TELEPHONY_TREE": self._frames[0].tree.name,
            "TELEPHONY_NODE": self._node,
            "TELEPHONY_LANGUAGE": self._language,
            "TELEPHONY_PRIORITY": str(self._priority),
        }
        for name in sorted(self._exported - self._secrets):
            facts[f"IVR_{name.upper()}"] = _UNSAFE.sub("_", self._values[name])[:200]
        self._session.hand_back(facts)

    # ---- what is known

    @property
    def _tree(self) -> Tree:
        return self._frames[-1].tree

    def _declare(self, tree: Tree) -> None:
        for name, variable in tree.variables.items():
            self._values.setdefault(name, variable.default)
            if variable.secret:
                self._secrets.add(name)
            if variable.export:
                self._exported.add(name)

    def _known(self) -> dict[str, str]:
        """Every variable with its value, the built-in ones too."""
        return {
            **self._values,
            "brand": self._tree.voice.brand,
            "caller": self._session.caller,
            "called": self._session.called,
            "crowded": "1" if self._crowded else "",
            "language": self._language,
            "priority": str(self._priority),
        }

    def _facts(self) -> CallFacts:
        return CallFacts(
            self._session.id,
            self._session.caller,
            self._session.called,
            self._tree.name,
            self._node,
            self._language,
            self._priority,
        )

    def _words(self, prompt: Prompt | None) -> said.Prompt:
        """A prompt in the call's language, with its values."""
        saying = words_of(prompt, self._tree, self._language) if prompt is not None else None
        if saying is None:
            return said.Prompt(())
        return fixed_words(saying, self._language) or self._with_values(saying)

    def _with_values(self, saying: Saying) -> said.Prompt:
        return render(saying, self._known(), self._language, self._secrets)

    def _foresee(self) -> None:
        """Begin to make what the next nodes say with values that this node does not change."""
        ahead = outlook(self._tree, self._node, self._language, crowded=self._crowded)
        for saying in ahead.values:
            self._sounds.foresee(self._with_values(saying), self._language)

    async def _say(self, prompt: Prompt | None, *, barge_in: bool = False) -> None:
        if prompt is not None:
            await self._talk.say(self._words(prompt), self._language, barge_in=barge_in)

    async def _phrase(self, key: str, *, barge_in: bool = False) -> None:
        await self._talk.say(said.Prompt((said.Phrase(key),)), self._language, barge_in=barge_in)

    # ---- nodes

    async def _do(self, node: Node) -> _Way:
        match node:
            case Say():
                await self._say(node.prompt, barge_in=node.barge_in)
                return _Way("said", node.next)
            case Menu():
                return await self._menu(node)
            case Collect():
                return await self._collect(node)
            case Condition():
                return self._condition(node)
            case Language():
                return await self._choose_language(node)
            case Webhook():
                return await self._webhook(node)
            case Lookup():
                return await self._lookup(node)
            case Queue():
                return await self._queue(node)
            case Transfer():
                return await self._transfer(node)
            case Callback():
                return await self._callback(node)
            case Survey():
                return await self._survey(node)
            case Record():
                return await self._record(node)
            case Bot():
                return await self._unavailable(node.on_unavailable)
            case Set():
                known = self._known()
                for name, text in node.values.items():
                    self._values[name] = fill(text, known)[:MAX_VALUE]
                self._priority = self._priority if node.priority is None else node.priority
                return _Way("set", node.next)
            case Goto():
                return _Way("gone", node.to)
            case Subtree():
                return self._enter(node)
            case Hangup():
                await self._say(node.prompt)
                return _Way("ended", HANGUP, node.result)

    async def _menu(self, node: Menu) -> _Way:
        menus = self._frames[-1].menus
        if self._node in menus:
            del menus[menus.index(self._node) + 1 :]
        else:
            menus.append(self._node)
        ways = outlook(self._tree, self._node, self._language, crowded=self._crowded).ways
        key = await self._choice(node, ways)
        return key if isinstance(key, _Way) else _Way(key, ways[key])

    async def _choice(self, node: Menu | Survey, choices: Mapping[str, str]) -> str | _Way:
        """Ask until a choice is made, or it has been silence or wrong keys too often."""
        timeouts = failures = 0
        prompt = first_words(node, crowded=self._crowded)
        while True:
            key = await self._talk.ask_key(
                [(self._words(prompt), self._language)],
                choices,
                timeout=node.timeout,
                inter_digit_timeout=node.inter_digit_timeout,
            )
            if key in choices:
                return key
            timeouts, failures = timeouts + (not key), failures + bool(key)
            over = await self._once_more(node, timeouts, failures, wrong=bool(key))
            if over is not None:
                return over
            prompt = node.short or node.prompt

    async def _once_more(self, node: Asking, timeouts: int, failures: int, *, wrong: bool) -> _Way | None:
        """After silence or a wrong key: a `_Way` out where it was once too often, else None."""
        target = None
        if not wrong and timeouts >= node.max_timeouts:
            target, outcome = node.on_timeout or node.on_fail, "silence"
        elif wrong and failures >= node.max_failures:
            target, outcome = node.on_invalid or node.on_fail, "wrong"
        if wrong:
            self._talk.forget_ahead()
            if node.invalid is not None:
                await self._say(node.invalid, barge_in=True)
            else:
                await self._phrase(_INVALID, barge_in=True)
        if target is None:
            return None
        if target == HANGUP:
            await self._phrase(_GOODBYE)
            return _Way(outcome, HANGUP, "no_input" if outcome == "silence" else "wrong_input")
        return _Way(outcome, target)

    async def _collect(self, node: Collect) -> _Way:
        timeouts = failures = 0
        prompt = first_words(node, crowded=self._crowded)
        secret = node.variable in self._secrets
        while True:
            digits = await self._talk.ask_digits(
                self._words(prompt),
                self._language,
                most=node.max_digits,
                terminator=node.terminator,
                timeout=node.timeout,
                inter_digit_timeout=node.inter_digit_timeout,
                secret=secret,
            )
            if digits and _fits(digits, node):
                self._values[node.variable] = digits
                return _Way("entered", node.next)
            timeouts, failures = timeouts + (not digits), failures + bool(digits)
            over = await self._once_more(node, timeouts, failures, wrong=bool(digits))
            if over is not None:
                return over
            prompt = node.short or node.prompt

    def _condition(self, node: Condition) -> _Way:
        for index, case in enumerate(node.cases):
            if self._holds(case):
                return _Way(f"case {index + 1}", case.to)
        return _Way("otherwise", node.otherwise)

    def _holds(self, case: Case) -> bool:
        if isinstance(case, HoursCase):
            table = timetable(self._tree.hours[case.hours])
            return table.is_open(self._services.clock.now()) == case.is_open
        if isinstance(case, CallerCase):
            caller = self._session.caller
            return any(_matches(caller, entry) for entry in self._tree.lists[case.caller_in])
        value = self._known().get(case.variable, "")
        if case.equals is not None:
            return value == case.equals
        if case.one_of is not None:
            return value in case.one_of
        if case.is_set is not None:
            return bool(value) == case.is_set
        number = _number(value)
        if number is None:
            return False
        if case.less_than is not None:
            return number < Decimal(str(case.less_than))
        return number > Decimal(str(case.more_than))

    async def _choose_language(self, node: Language) -> _Way:
        if node.language is not None:
            self._language = node.language
            return _Way(node.language, node.next)
        sayings = sayings_of(node.prompt, self._tree) if node.prompt is not None else {}
        prompts = [
            (render(sayings[tag], self._known(), tag, self._secrets), tag)
            for tag in dict.fromkeys(node.choices.values())
            if tag in sayings
        ]
        for _ in range(node.max_timeouts):
            key = await self._talk.ask_key(
                prompts, node.choices, timeout=node.timeout, inter_digit_timeout=2.0
            )
            if key in node.choices:
                self._language = node.choices[key]
                return _Way(self._language, node.next)
        self._talk.forget_ahead()
        return _Way("not chosen", node.next)

    async def _webhook(self, node: Webhook) -> _Way:
        known = self._known()
        send = {name: fill(text, known) for name, text in node.send.items()}
        order = WebhookOrder(self._facts(), node.url, send, node.timeout)
        await self._talk.allow(node.timeout)
        asking = asyncio.create_task(
            _in_time(self._services.webhooks.ask(order), node.timeout), name="ivr-webhook"
        )
        try:
            # What is said covers the wait; the app is asked meanwhile.
            await self._say(node.prompt, barge_in=True)
            await self._talk.allow(node.timeout)
            reply = await self._talk.wait(asking, self._language)
        finally:
            asking.cancel()
        if reply is None:
            return _Way("failed", node.on_error or HANGUP, "" if node.on_error else "failed")
        for name, place in node.receive.items():
            self._values[name] = text_of(_at(reply, place))
        return _Way("answered", node.next)

    async def _lookup(self, node: Lookup) -> _Way:
        finding = asyncio.create_task(
            _in_time(self._services.profiles.find(self._facts(), node.timeout), node.timeout),
            name="ivr-lookup",
        )
        try:
            await self._talk.allow(node.timeout)
            profile = await self._talk.wait(finding, self._language)
        finally:
            finding.cancel()
        if profile is None:
            return _Way("unknown", node.on_unknown or node.next)
        for name, place in node.receive.items():
            self._values[name] = text_of(profile.get(place))
        language = text_of(profile.get(node.language_from)) if node.language_from else ""
        if language in self._tree.languages:
            self._language = language
        priority = _number(text_of(profile.get(node.priority_from))) if node.priority_from else None
        if priority is not None and 0 <= priority <= 9:
            self._priority = int(priority)
        return _Way("found", node.next)

    async def _queue(self, node: Queue) -> _Way:
        await self._say(node.prompt)
        await self._talk.answer()
        if node.priority is not None:
            self._priority = node.priority
        self._hand_back("queued")
        await self._talk.session.extend(node.max_wait + WITH_A_PERSON)
        order = QueueOrder(self._facts(), node.queue, self._priority, node.max_wait)
        end = await self._with_person(self._services.queues.wait(self._session, order))
        match end:
            case QueueEnd.HANDED_OVER:
                return _Way(end.value, DIALPLAN, "queued")
            case QueueEnd.SPOKEN:
                return _Way(end.value, node.next, "queued")
            case QueueEnd.TIMEOUT if node.on_timeout is not None:
                return _Way(end.value, node.on_timeout)
            case QueueEnd.FULL if node.on_full is not None:
                return _Way(end.value, node.on_full)
            case _:
                return await self._unavailable(node.on_unavailable, end.value)

    async def _transfer(self, node: Transfer) -> _Way:
        await self._say(node.prompt)
        await self._talk.answer()
        self._hand_back("transferred")
        await self._talk.session.extend(node.ring_timeout + WITH_A_PERSON)
        order = TransferOrder(
            self._facts(),
            node.extension or "",
            node.context,
            fill(node.number or "", self._known()),
            node.route or "",
            node.ring_timeout,
        )
        end = await self._with_person(self._services.transfers.transfer(self._session, order))
        match end:
            case TransferEnd.HANDED_OVER:
                return _Way(end.value, DIALPLAN, "transferred")
            case TransferEnd.SPOKEN:
                return _Way(end.value, node.next, "transferred")
            case TransferEnd.BUSY if node.on_busy is not None:
                return _Way(end.value, node.on_busy)
            case TransferEnd.NO_ANSWER if node.on_no_answer is not None:
                return _Way(end.value, node.on_no_answer)
            case _:
                return await self._unavailable(node.on_unavailable, end.value)

    async def _callback(self, node: Callback) -> _Way:
        order = CallbackOrder(self._facts(), fill(node.number, self._known()), node.queue)
        if not order.number or not await self._services.callbacks.book(order):
            return await self._unavailable(node.on_unavailable)
        await self._say(node.prompt)
        return _Way("booked", node.next, "callback")

    async def _survey(self, node: Survey) -> _Way:
        if not self._services.surveys.open:
            return await self._unavailable(node.on_unavailable)
        choices = {str(figure): node.next for figure in range(node.lowest, node.highest + 1)}
        key = await self._choice(node, choices)
        if isinstance(key, _Way):
            return key
        self._values[node.variable] = key
        kept = await self._services.surveys.keep(SurveyAnswer(self._facts(), node.survey, int(key)))
        return _Way(key if kept else "lost", node.next)

    async def _record(self, node: Record) -> _Way:
        place = self._services.recordings.place(self._facts())
        if place is None:
            return await self._unavailable(node.on_unavailable)
        await self._say(node.prompt)
        await self._talk.answer()
        await self._talk.allow(node.max_seconds)
        # Before it: most callers end it by hanging up, and what they said must be found.
        self._values[node.variable] = place.id
        self._journal.recording(place.id)
        await self._session.record(
            place.path, max_seconds=node.max_seconds, silence_seconds=node.silence_seconds
        )
        return _Way("recorded", node.next)

    def _enter(self, node: Subtree) -> _Way:
        inner = self._trees.get(node.tree)
        if inner is None or len(self._frames) >= MAX_FRAMES:
            log.error("ivr.no_subtree", call=self._session.id, tree=self._tree.name, subtree=node.tree)
            return self._rescue()
        way = _Way("entered", inner.start)
        self._frames.append(_Frame(inner, self._node, node.next))
        self._declare(inner)
        if self._language not in inner.languages:
            self._language = inner.languages[0]
        return way

    async def _unavailable(self, target: str | None, outcome: str = "unavailable") -> _Way:
        """Where a service is not there: as the tree says, else say so and end."""
        if target is not None:
            return _Way(outcome, target)
        await self._phrase(_UNAVAILABLE)
        await self._phrase(_GOODBYE)
        return _Way(outcome, HANGUP, "unavailable")

    async def _with_person(self, waiting: Awaitable[End]) -> End:
        """Wait for a queue or a transfer; that time is not the tree's."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            return await waiting
        finally:
            self._over_at += loop.time() - began


async def _in_time(
    asking: Awaitable[Mapping[str, object] | None], timeout: float
) -> Mapping[str, object] | None:
    """What a port answers; one that overruns its deadline has not answered."""
    try:
        async with asyncio.timeout(timeout + OVERRUN):
            return await asking
    except TimeoutError:
        return None


def _fits(digits: str, node: Collect) -> bool:
    if len(digits) < node.min_digits or not digits.isdecimal():
        return False
    if node.check.luhn and not passes_luhn(digits):
        return False
    return not node.check.pattern or compile_pattern(node.check.pattern).fullmatch(digits) is not None


def _matches(caller: str, entry: str) -> bool:
    plain = caller.removeprefix("+")
    wanted = entry.removeprefix("+")
    if wanted.endswith("*"):
        return bool(plain) and plain.startswith(wanted[:-1])
    return plain == wanted


def _at(value: object, place: str) -> object:
    """What stands at `a.b.c` of a JSON object; None where nothing does."""
    for step in place.split("."):
        if isinstance(value, Mapping):
            value = value.get(step)
        elif isinstance(value, Sequence) and not isinstance(value, str) and step.isdecimal():
            value = value[int(step)] if int(step) < len(value) else None
        else:
            return None
    return value


def text_of(value: object) -> str:
    """A value from outside as a variable holds it: one printable line; lists and mappings are nothing."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if not isinstance(value, str | int | float | Decimal):
        return ""
    line = "".join(letter if letter.isprintable() else " " for letter in str(value))
    return " ".join(line.split())[:MAX_VALUE]


def _number(text: str) -> Decimal | None:
    try:
        number = Decimal(text)
    except InvalidOperation:
        return None
    return number if number.is_finite() else None
