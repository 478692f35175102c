"""A tree as a conversation: called out (`IvrFlow`, a `Flow` of the calls' room) or called in (`InboundIvr`).

What they never do: pick a trunk, or hold a call that was handed over.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, field
from typing import Any, Final

import structlog

from telephony.calls.flow import Outcome, Prepared
from telephony.calls.policy import NO_INPUT
from telephony.errors import CallEnded, InputError, PbxError, TelephonyError
from telephony.ivr.book import Edition, TreeBook
from telephony.ivr.inbound_log import PATH_EVENT, InboundCall
from telephony.ivr.interpreter import MAX_VALUE, WITH_A_PERSON, Ending, Interpreter, text_of
from telephony.ivr.journal import Visit, step_of
from telephony.ivr.ports import Voice
from telephony.ivr.reading import did_you_mean
from telephony.ivr.saying import render, sayings_of
from telephony.ivr.sounds import Key, Sounds, Wardrobe
from telephony.ivr.standins import Services
from telephony.ivr.tree import Language, Tree
from telephony.model.call import CallStatus
from telephony.model.ids import new_id
from telephony.model.media import Media
from telephony.pbx.port import CallSession
from telephony.store import EventRecord, RequestRecord, UnitOfWork

FLOW_NAME: Final = "ivr"
TREE_ARGUMENT: Final = "tree"
"""What the dialplan hands over: `agi://…/ivr/NAME`, or `agi://…/inbound?tree=NAME`."""

LANGUAGE_ARGUMENT: Final = "language"
CROWDED_ARGUMENT: Final = "crowded"
"""`1` where the dialplan counts more calls on the trunk than is comfortable."""

TREE_VARIABLE: Final = "TELEPHONY_TREE"
"""Tells the dialplan which tree it is, for the day on which we die in the middle."""

FIRST_LIMIT: Final = 20.0
"""Seconds beyond the first words that the PBX grants a call out before it hears of us."""

MAX_PATHS: Final = 10_000
"""Paths of calls that have ended and are not written yet."""

Watch = Callable[[Visit], None]

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class PreparedTree(Prepared):
    """With the edition that the call keeps, and the first words, made before the phone rings."""

    tree: Tree | None = None
    edition: Edition = field(default_factory=Edition)
    ready: Mapping[Key, Media] = field(default_factory=dict)


class IvrFlow:
    """Trees, called out.

    With `tree` it is the flow of that tree, by its name. Without, it is called `ivr`, and the request names
    the tree: in its `flow_ref`, or as the variable `tree`. All other variables are the tree's own.
    """

    name = FLOW_NAME

    def __init__(
        self,
        book: TreeBook,
        voice: Voice,
        services: Services | None = None,
        *,
        tree: str = "",
        watch: Watch | None = None,
        wardrobe: Wardrobe | None = None,
    ) -> None:
        self.name = tree or FLOW_NAME
        self._wardrobe = wardrobe
        self._paths: OrderedDict[str, tuple[Visit, ...]] = OrderedDict()
        self._book = book
        self._voice = voice
        self._services = services or Services()
        self._tree = tree
        self._watch = watch

    def check(self, variables: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return what a request's variables are, defaults filled in. Raises `InputError`, by variable."""
        given = dict(variables)
        name = self._tree or str(given.pop(TREE_ARGUMENT, ""))
        known = self._book.edition.trees
        tree = known.get(name)
        if tree is None:
            mend = did_you_mean(
                name, known, f"Send one of {', '.join(sorted(known)) or 'none: there is none'}"
            )
            raise InputError(f"variables.{TREE_ARGUMENT}", f"there is no tree {name[:64]!r}", mend)
        checked = {one: variable.default for one, variable in tree.variables.items() if not variable.secret}
        for one, value in given.items():
            field = f"variables.{one[:64]}"
            if one not in tree.variables:
                mend = did_you_mean(one, checked, f"It has {', '.join(checked) or 'no variables'}")
                raise InputError(field, f"is no variable of {name}", mend)
            if one not in checked:
                raise InputError(field, "is a secret, and would be kept with the request", "Leave it out")
            if not isinstance(value, str | int | float) or len(str(value)) > MAX_VALUE:
                raise InputError(field, "is not a text", f"Send a text of at most {MAX_VALUE} characters")
            checked[one] = text_of(value)
        return checked if self._tree else {TREE_ARGUMENT: name, **checked}

    async def prepare(self, request: RequestRecord) -> Prepared | Outcome:
        """Find the tree and make its first words; a tree that is gone means that nobody is rung."""
        edition = self._book.edition
        name = self._tree or request.flow_ref or request.variables.get(TREE_ARGUMENT)
        tree = edition.trees.get(str(name))
        if tree is None:
            return Outcome(CallStatus.FAILED, "no_such_tree")
        ready = {key: await self._voice.compose(*key) for key in _first_words(tree, request)}
        first = max((media.seconds for media in ready.values()), default=0.0) + FIRST_LIMIT
        return PreparedTree(
            tuple(ready.values()),
            tree.max_seconds + WITH_A_PERSON,
            first,
            tree=tree,
            edition=edition,
            ready=ready,
        )

    async def converse(self, session: CallSession, request: RequestRecord, prepared: Prepared) -> Outcome:
        """Walk the tree. A hang-up after a key, or in a recording, is an answer; before, it is none."""
        if not isinstance(prepared, PreparedTree) or prepared.tree is None:
            return Outcome(CallStatus.FAILED, "no_such_tree")
        with _lent(self._wardrobe, prepared.edition) as common:
            sounds = Sounds(self._voice, {**common, **prepared.ready})
            walk = Interpreter(
                prepared.tree,
                session,
                sounds,
                self._services,
                trees=prepared.edition.trees,
                variables=request.variables,
                language=_language(prepared.tree, request.locale or ""),
                watch=self._watch,
            )
            try:
                return _outcome(await walk.run())
            except CallEnded as ended:
                if ended.hung_up and (walk.keys or any(visit.recording for visit in walk.visits)):
                    return Outcome(CallStatus.COMPLETED, "hung_up", walk.keys)
                raise
            finally:
                self._remember(request.id, walk.visits)
                await sounds.close()

    def _remember(self, request_id: str, visits: tuple[Visit, ...]) -> None:
        """Keep the path of a call until its outcome is written."""
        self._paths[request_id] = visits
        if len(self._paths) > MAX_PATHS:
            self._paths.popitem(last=False)

    def cut_short(self, request: RequestRecord) -> Outcome:
        """A hang-up before any key."""
        return Outcome(CallStatus.COMPLETED, "hung_up_early", retry_as=NO_INPUT)

    async def settle(self, work: UnitOfWork, request: RequestRecord, outcome: Outcome) -> None:
        """Keep the path that the last conversation took."""
        visits = self._paths.pop(request.id, ())
        if visits:
            now = _now_ms()
            detail = {"path": [step_of(visit) for visit in visits]}
            event = EventRecord(
                id=new_id("evt"), at=now, request_id=request.id, kind=PATH_EVENT, detail=detail
            )
            await work.events.add(event)


class TreeFlows:
    """The trees of the newest edition as flows, each by its name, and `ivr`, which takes any."""

    def __init__(
        self, book: TreeBook, voice: Voice, services: Services, wardrobe: Wardrobe | None = None
    ) -> None:
        self._book = book
        self._make: Callable[[str], IvrFlow] = lambda tree: IvrFlow(
            book, voice, services, tree=tree, wardrobe=wardrobe
        )
        self._made: dict[str, IvrFlow] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """What can be called now."""
        return (FLOW_NAME, *sorted(self._book.edition.trees))

    def find(self, name: str) -> IvrFlow | None:
        """The flow of this name, None where there is no such tree."""
        if name not in self._made:
            if name not in self.names:
                return None
            self._made[name] = self._make("" if name == FLOW_NAME else name)
        return self._made[name]


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _lent(wardrobe: Wardrobe | None, edition: Edition) -> AbstractContextManager[Mapping[Key, Media]]:
    return nullcontext({}) if wardrobe is None else wardrobe.lent(edition.number)


def _outcome(ending: Ending) -> Outcome:
    if ending.result == "failed":
        return Outcome(CallStatus.FAILED, "ivr_failed", ending.keys)
    retry_as = NO_INPUT if ending.result == "no_input" and not ending.keys else ""
    return Outcome(CallStatus.COMPLETED, ending.result, ending.keys, retry_as=retry_as)


def _language(tree: Tree, locale: str) -> str:
    """The tree's language that fits a locale, else its first."""
    wanted = locale.lower()
    for tag in tree.languages:
        if tag.lower() == wanted:
            return tag
    for tag in tree.languages:
        if wanted and tag.lower().partition("-")[0] == wanted.partition("-")[0]:
            return tag
    return tree.languages[0]


def _first_words(tree: Tree, request: RequestRecord) -> list[Key]:
    """What the first node that speaks will say, where only what is known now leads to it."""
    language = _language(tree, request.locale or "")
    known = {name: variable.default for name, variable in tree.variables.items()}
    known |= {name: text_of(value) for name, value in request.variables.items() if name in known}
    known |= {
        "brand": tree.voice.brand,
        "language": language,
        "caller": "",
        "crowded": "",
        "called": request.to_number,
    }
    secrets = {name for name, variable in tree.variables.items() if variable.secret}
    name = tree.start
    for _ in range(len(tree.nodes)):
        node = tree.nodes.get(name)
        prompt = getattr(node, "prompt", None)
        if node is None or isinstance(node, Language):
            return []
        if prompt is not None:
            saying = sayings_of(prompt, tree).get(language)
            words = render(saying, known, language, secrets) if saying is not None else None
            return [(words, language)] if words is not None and words.parts else []
        if node.type != "goto":
            return []
        name = node.to
    return []


class InboundIvr:
    """A tree, called in: takes a session from the PBX to its end.

    Which tree, says the dialplan (`tree`), else `numbers` by the called number (figures alone), else it is
    `default_tree`. `keep` is told of each call that is over. What else the dialplan hands over goes into the
    tree's variables of that name; `language`
    is the language to begin with.
    """

    def __init__(
        self,
        book: TreeBook,
        voice: Voice,
        services: Services | None = None,
        *,
        default_tree: str = "",
        numbers: Mapping[str, str] | None = None,
        watch: Watch | None = None,
        wardrobe: Wardrobe | None = None,
        keep: Callable[[InboundCall], None] | None = None,
    ) -> None:
        self._keep = keep
        self._numbers = {figures_of(number): tree for number, tree in (numbers or {}).items()}
        self._wardrobe = wardrobe
        self._book = book
        self._voice = voice
        self._services = services or Services()
        self._default_tree = default_tree
        self._watch = watch

    async def __call__(self, session: CallSession) -> None:
        """Walk the tree and end the call in good order; a tree that is not there is left to the dialplan.

        Returning without `hangup` or `transfer` leaves TELEPHONY_DONE unset: the dialplan takes its own way.
        """
        edition = self._book.edition
        asked = session.arguments.get(TREE_ARGUMENT, "")
        name = asked or self._numbers.get(figures_of(session.called)) or self._default_tree
        tree = edition.trees.get(name)
        if tree is None:
            log.error("ivr.no_such_tree", call=session.id, tree=name[:64])
            return
        began_at = _now_ms()
        with _lent(self._wardrobe, edition) as common:
            sounds = Sounds(self._voice, common)
            walk = Interpreter(
                tree,
                session,
                sounds,
                self._services,
                trees=edition.trees,
                variables=_handed_over(tree, session.arguments),
                language=_language(tree, session.arguments.get(LANGUAGE_ARGUMENT, "")),
                crowded=session.arguments.get(CROWDED_ARGUMENT) == "1",
                watch=self._watch,
            )
            result = "hung_up"
            try:
                if not asked:
                    await session.set_variable(TREE_VARIABLE, name)
                ending = await walk.run()
                result = ending.result
                if not ending.with_dialplan:
                    await session.hangup()
            except CallEnded as ended:
                result = "hung_up" if ended.hung_up else "lost"
            except PbxError as error:
                result = "lost"
                log.error("ivr.lost", call=session.id, tree=name, error=str(error))
            finally:
                log.info(
                    "ivr.ended",
                    call=session.id,
                    tree=name,
                    result=result,
                    keys=walk.keys,
                    path=[visit.node for visit in walk.visits],
                )
                if self._keep is not None:
                    self._keep(
                        InboundCall(
                            session.id,
                            name,
                            session.caller,
                            session.called,
                            walk.language,
                            result,
                            began_at,
                            _now_ms(),
                            walk.visits,
                        )
                    )
                with suppress(TelephonyError):
                    await sounds.close()


def figures_of(number: str) -> str:
    """A called number as it is compared: PBXes differ in what they put before it."""
    return "".join(letter for letter in number if letter in "0123456789")


def _handed_over(tree: Tree, arguments: Mapping[str, str]) -> dict[str, str]:
    """What the dialplan hands over to the tree's variables; never a secret: everybody could see it."""
    return {
        name: arguments[name]
        for name, variable in tree.variables.items()
        if name in arguments and not variable.secret
    }
