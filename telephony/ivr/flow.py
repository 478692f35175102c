"""A tree as a conversation: called out (`IvrFlow`, a `Flow` of the calls' room) or called in (`InboundIvr`).

What they never do: pick a trunk, or hold a call that was handed over.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

import structlog

from telephony.calls.flow import Outcome, Prepared
from telephony.calls.policy import NO_INPUT
from telephony.errors import CallEnded, InputError, PbxError, TelephonyError
from telephony.ivr.book import Edition, TreeBook
from telephony.ivr.interpreter import MAX_VALUE, WITH_A_PERSON, Ending, Interpreter, text_of
from telephony.ivr.journal import Visit
from telephony.ivr.ports import Voice
from telephony.ivr.reading import did_you_mean
from telephony.ivr.saying import render, sayings_of
from telephony.ivr.sounds import Key, Sounds
from telephony.ivr.standins import Services
from telephony.ivr.talk import FROZEN_MARGIN
from telephony.ivr.tree import Language, Tree
from telephony.model.call import CallStatus
from telephony.model.media import Media
from telephony.pbx.port import CallSession
from telephony.store import RequestRecord, UnitOfWork

FLOW_NAME: Final = "ivr"
TREE_ARGUMENT: Final = "tree"
"""What the dialplan hands over: `agi://…/inbound?tree=NAME`."""

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
    ) -> None:
        self.name = tree or FLOW_NAME
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
        first = max((media.seconds for media in ready.values()), default=0.0) + 2 * FROZEN_MARGIN
        return PreparedTree(
            tuple(ready.values()),
            tree.max_seconds + WITH_A_PERSON,
            first,
            tree=tree,
            edition=edition,
            ready=ready,
        )

    async def converse(self, session: CallSession, request: RequestRecord, prepared: Prepared) -> Outcome:
        """Walk the tree. A hang-up after a key was pressed is an answer; before, it is none."""
        if not isinstance(prepared, PreparedTree) or prepared.tree is None:
            return Outcome(CallStatus.FAILED, "no_such_tree")
        sounds = Sounds(self._voice, prepared.ready)
        walk = Interpreter(
            prepared.tree,
            session,
            sounds,
            self._services,
            trees=prepared.edition.trees,
            variables=request.variables,
            language=_language(prepared.tree, request),
            watch=self._watch,
        )
        try:
            return _outcome(await walk.run())
        except CallEnded as ended:
            if ended.hung_up and walk.keys:
                return Outcome(CallStatus.COMPLETED, "hung_up", walk.keys)
            raise
        finally:
            await sounds.close()

    def cut_short(self, request: RequestRecord) -> Outcome:
        """A hang-up before any key."""
        return Outcome(CallStatus.COMPLETED, "hung_up_early", retry_as=NO_INPUT)

    async def settle(self, work: UnitOfWork, request: RequestRecord, outcome: Outcome) -> None:
        """Nothing is kept beside the call itself."""


def _outcome(ending: Ending) -> Outcome:
    if ending.result == "failed":
        return Outcome(CallStatus.FAILED, "ivr_failed", ending.keys)
    retry_as = NO_INPUT if ending.result == "no_input" and not ending.keys else ""
    return Outcome(CallStatus.COMPLETED, ending.result, ending.keys, retry_as=retry_as)


def _language(tree: Tree, request: RequestRecord) -> str:
    """The tree's language that fits the request's locale, else its first."""
    wanted = (request.locale or "").lower()
    for tag in tree.languages:
        if tag.lower() == wanted:
            return tag
    for tag in tree.languages:
        if wanted and tag.lower().partition("-")[0] == wanted.partition("-")[0]:
            return tag
    return tree.languages[0]


def _first_words(tree: Tree, request: RequestRecord) -> list[Key]:
    """What the first node that speaks will say, where only what is known now leads to it."""
    language = _language(tree, request)
    known = {name: variable.default for name, variable in tree.variables.items()}
    known |= {name: text_of(value) for name, value in request.variables.items() if name in known}
    known |= {"brand": tree.voice.brand, "language": language, "caller": "", "called": request.to_number}
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
    """A tree, called in: takes a session from the PBX to its end. `tree` is said by the dialplan."""

    def __init__(
        self,
        book: TreeBook,
        voice: Voice,
        services: Services | None = None,
        *,
        default_tree: str = "",
        watch: Watch | None = None,
    ) -> None:
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
        name = session.arguments.get(TREE_ARGUMENT) or self._default_tree
        tree = edition.trees.get(name)
        if tree is None:
            log.error("ivr.no_such_tree", call=session.id, tree=name[:64])
            return
        sounds = Sounds(self._voice)
        walk = Interpreter(tree, session, sounds, self._services, trees=edition.trees, watch=self._watch)
        try:
            ending = await walk.run()
            if not ending.with_dialplan:
                await session.hangup()
            log.info("ivr.ended", call=session.id, tree=name, result=ending.result, node=ending.node)
        except CallEnded:
            log.info("ivr.ended", call=session.id, tree=name, result="hung_up")
        except PbxError as error:
            log.error("ivr.lost", call=session.id, tree=name, error=str(error))
        finally:
            with suppress(TelephonyError):
                await sounds.close()
