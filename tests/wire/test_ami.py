"""The AMI machine: what it makes of the bytes of real and of broken PBXes, however they are cut."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from telephony.errors import LocalProtocolError, Overloaded, RemoteProtocolError
from telephony.wire.ami import (
    AmiItem,
    AmiLimits,
    AmiProtocol,
    Banner,
    Message,
    Reply,
    challenge_headers,
    login_headers,
    variable_header,
)

BANNER = b"Asterisk Call Manager/11.0.0\r\n"
HANGUP = (
    "Event: Hangup\r\nPrivilege: call,all\r\nChannel: PJSIP/trunk-00000001\r\nCallerIDName: José 王小明 ☎\r\n"
    "AccountCode: \r\nUniqueid: att-1\r\nChanVariable: A=1\r\nChanVariable: B=2: 3\r\n"
    "Cause: 17\r\nTechCause: 486\r\n\r\n"
).encode()


def ready(limits: AmiLimits | None = None) -> AmiProtocol:
    protocol = AmiProtocol("t-", limits or AmiLimits())
    assert protocol.receive(BANNER) == [Banner("11.0.0")]
    return protocol


def ready_with_one_action() -> AmiProtocol:
    protocol = ready()
    protocol.send("X")
    return protocol


def fed(protocol: AmiProtocol, *chunks: bytes) -> list[AmiItem]:
    return [item for chunk in chunks for item in protocol.receive(chunk)]


def one_event(data: bytes) -> Message:
    (item,) = ready().receive(data)
    assert isinstance(item, Message)
    return item


def response(action_id: str, *lines: str, kind: str = "Success") -> bytes:
    return "\r\n".join([f"Response: {kind}", f"ActionID: {action_id}", *lines, "", ""]).encode()


def member(action_id: str, name: str, *lines: str) -> bytes:
    return "\r\n".join([f"Event: {name}", f"ActionID: {action_id}", *lines, "", ""]).encode()


LIST = (
    response("t-1", "EventList: start", "Message: Channels will follow")
    + member("t-1", "CoreShowChannel", "Channel: PJSIP/a", "Uniqueid: 1")
    + HANGUP
    + member("t-1", "CoreShowChannel", "Channel: PJSIP/ü", "Uniqueid: 2")
    + member("t-1", "CoreShowChannelsComplete", "EventList: Complete", "ListItems: 2")
)
OLD_COMMAND = (
    b"Response: Follows\r\nPrivilege: Command\r\nActionID: t-1\r\nName: x\n\nmid\r\n\r\nlast: line\n"
    b"--END COMMAND--\r\n\r\n"
)
ORIGINATE = response("t-1", "Message: Originate successfully queued") + member(
    "t-1", "OriginateResponse", "Response: Failure", "Uniqueid: att-1", "Reason: 5"
)
FIXTURES = {
    "event": HANGUP,
    "two events and a blank line between": HANGUP + b"\r\n" + HANGUP,
    "three blank lines": HANGUP + b"\r\n\r\n\r\n" + HANGUP,
    "reply": response("t-1", "Ping: Pong"),
    "refusal": response("t-1", "Message: Permission denied", kind="Error"),
    "list": LIST,
    "originate": ORIGINATE,
    "output": response("t-1", "Message: Command output follows", "Output: a", "Output:   b: c", "Output: "),
    "old output": OLD_COMMAND,
    "stray reply": response("other") + HANGUP,
    "rest of a torn value": b"Event: X\r\nValue: a\r\n\r\nb: c\r\n\r\n" + HANGUP,
    "not UTF-8": HANGUP.replace("José".encode(), b"Jos\xff\xc3"),
}


@pytest.mark.parametrize("data", FIXTURES.values(), ids=FIXTURES.keys())
def test_every_split_gives_the_same(data: bytes) -> None:
    def run(*chunks: bytes) -> list[AmiItem]:
        protocol = AmiProtocol("t-")
        items = fed(protocol, BANNER)
        protocol.send("X")
        return items + fed(protocol, *chunks)

    whole = run(data)
    assert len(whole) > 1
    for cut in range(len(data) + 1):
        assert run(data[:cut], data[cut:]) == whole
    assert run(*[data[place : place + 1] for place in range(len(data))]) == whole


def test_the_banner_may_come_in_pieces_and_with_what_follows() -> None:
    stream = BANNER + HANGUP
    for cut in range(len(stream)):
        assert fed(AmiProtocol(), stream[:cut], stream[cut:]) == [Banner("11.0.0"), one_event(HANGUP)]


@pytest.mark.parametrize(
    "greeting", [b"SSH-2.0-OpenSSH\r\n", b"\r\n", b"Asterisk Call Manager/x\r\n", b"z" * 257]
)
def test_another_greeting_is_refused(greeting: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        AmiProtocol().receive(greeting)


def test_after_a_breach_nothing_goes() -> None:
    protocol = AmiProtocol()
    with pytest.raises(RemoteProtocolError):
        protocol.receive(b"HTTP/1.1 400 Bad Request\r\n")
    with pytest.raises(RemoteProtocolError):
        protocol.receive(BANNER)
    with pytest.raises(LocalProtocolError):
        protocol.send("Ping")


class TestMessages:
    def test_an_event_is_read_by_name_in_any_case(self) -> None:
        event = one_event(HANGUP)
        assert event.is_event
        assert event.name == "Hangup"
        assert event.get("uniqueID") == "att-1"
        assert event.get("AccountCode", "none") == ""
        assert event.get("Missing", "none") == "none"
        assert event.get("Event") == "Hangup"

    def test_repeated_headers_are_all_kept(self) -> None:
        event = one_event(HANGUP)
        assert event.all("chanvariable") == ("A=1", "B=2: 3")
        assert event.get("ChanVariable") == "A=1"

    def test_characters_cut_between_chunks_are_whole(self) -> None:
        middle = HANGUP.index("王".encode()) + 1
        (event,) = fed(ready(), HANGUP[:middle], HANGUP[middle:])
        assert isinstance(event, Message)
        assert event.get("CallerIDName") == "José 王小明 ☎"

    def test_looking_into_an_event_before_and_after_it_is_taken_apart_is_the_same(self) -> None:
        looked, taken = one_event(HANGUP), one_event(HANGUP)
        assert len(taken.headers) == 10
        for name, _ in taken.headers:
            assert looked.get(name) == taken.get(name)
        assert looked.name == taken.name
        assert looked == taken
        assert hash(looked) == hash(taken)

    def test_the_end_of_a_header_name_is_no_header(self) -> None:
        assert one_event(HANGUP).get("ID") == ""
        assert one_event(b"Event: X\r\nA:b:c\r\n\r\n").get("A:b") == ""
        assert one_event(b"Event: X\r\nAB: 1\r\nB: 2\r\n\r\n").get("B") == "2"

    def test_an_originate_response_is_an_event(self) -> None:
        event = one_event(b"Event: OriginateResponse\r\nResponse: Failure\r\nReason: 8\r\n\r\n")
        assert event.is_event
        assert event.get("Response") == "Failure"

    def test_bytes_that_are_no_text_are_replaced(self) -> None:
        for taken_apart in (False, True):
            event = one_event(FIXTURES["not UTF-8"])
            assert not taken_apart or event.headers
            assert event.get("CallerIDName") == "Jos\ufffd\ufffd 王小明 ☎"

    def test_only_responses_have_command_output(self) -> None:
        event = one_event(b"Event: UserEvent\r\nOutput: mine\r\n\r\n")
        assert event.headers[1] == ("Output", "mine")
        assert event.output == ()

    def test_a_message_cannot_be_changed(self) -> None:
        event = one_event(HANGUP)
        with pytest.raises(AttributeError):
            event.headers = ()  # type: ignore[misc]
        with pytest.raises(AttributeError):
            event.extra = 1  # type: ignore[attr-defined]

    def test_a_message_can_be_made_and_shows_no_values(self) -> None:
        event = Message([("Event", "Hangup"), ("Uniqueid", "att-1")])
        assert (event.name, event.get("uniqueid")) == ("Hangup", "att-1")
        assert repr(event) == "<Message: event Hangup, 2 headers>"

    def test_lines_without_a_colon_are_dropped_and_line_feeds_belong_to_the_value(self) -> None:
        event = one_event(b"Event: X\r\nstray\r\nValue: a\nb\r\nTight:c\r\n\r\n")
        assert event.headers == (("Event", "X"), ("Value", "a\nb"), ("Tight", "c"))


class TestReplies:
    def test_replies_find_their_actions_in_any_order(self) -> None:
        protocol = ready()
        first, _ = protocol.send("A")
        second, _ = protocol.send("B")
        items = protocol.receive(response(second, "Message: b") + response(first, "Message: a"))
        assert [(item.action_id, item.text) for item in items if isinstance(item, Reply)] == [
            (second, "b"),
            (first, "a"),
        ]
        assert protocol.pending == 0

    def test_a_refusal_says_so(self) -> None:
        protocol = ready()
        action_id, _ = protocol.send("A")
        (reply,) = protocol.receive(response(action_id, "Message: No", kind="Error"))
        assert isinstance(reply, Reply)
        assert (reply.ok, reply.text) == (False, "No")

    def test_an_originate_that_waits_has_its_whole_answer_in_the_reply(self) -> None:
        protocol = ready()
        action_id, _ = protocol.send("Originate", [("Channel", "PJSIP/1@trunk")])
        (reply,) = protocol.receive(response(action_id, "Message: Originate failed", kind="Error"))
        assert reply == Reply(
            action_id,
            Message([("Response", "Error"), ("ActionID", action_id), ("Message", "Originate failed")]),
        )

    def test_the_first_reply_counts(self) -> None:
        protocol = ready()
        action_id, _ = protocol.send("A")
        assert len(protocol.receive(response(action_id) + response(action_id))) == 1

    def test_command_output_keeps_every_line(self) -> None:
        protocol = ready()
        protocol.send("Command", [("Command", "core show uptime")])
        (reply,) = protocol.receive(FIXTURES["output"])
        assert isinstance(reply, Reply)
        assert reply.output == ("a", "  b: c", "")
        assert reply.text == "Command output follows"
        assert reply.message.all("Output") == ()

    def test_command_output_of_the_old_form_keeps_every_line(self) -> None:
        protocol = ready()
        protocol.send("Command", [("Command", "core show uptime")])
        (reply,) = protocol.receive(OLD_COMMAND)
        assert isinstance(reply, Reply)
        assert reply.ok
        assert reply.output == ("Name: x", "", "mid", "", "last: line")
        assert reply.message.headers == (
            ("Response", "Follows"),
            ("Privilege", "Command"),
            ("ActionID", "t-1"),
        )


class TestLists:
    def test_members_come_with_the_reply_and_other_events_at_once(self) -> None:
        protocol = ready()
        protocol.send("CoreShowChannels")
        event, reply = protocol.receive(LIST)
        assert isinstance(event, Message)
        assert event.name == "Hangup"
        assert isinstance(reply, Reply)
        assert [item.get("Channel") for item in reply.events] == ["PJSIP/a", "PJSIP/ü"]
        assert reply.text == "Channels will follow"
        assert protocol._collecting == 0
        assert not reply.truncated

    def test_two_lists_may_be_interleaved(self) -> None:
        protocol = ready()
        ids = [protocol.send("QueueStatus")[0] for _ in range(2)]
        data = b"".join(response(one, "EventList: start") for one in ids)
        data += b"".join(member(one, "QueueMember", f"Name: {one}") for one in ids * 2)
        data += b"".join(member(one, "QueueStatusComplete", "EventList: Complete") for one in ids)
        for reply, action_id in zip(protocol.receive(data), ids, strict=True):
            assert isinstance(reply, Reply)
            assert reply.action_id == action_id
            assert [event.get("Name") for event in reply.events] == [action_id] * 2

    def test_an_originate_response_is_no_member(self) -> None:
        protocol = ready()
        protocol.send("Originate")
        reply, event = protocol.receive(ORIGINATE)
        assert isinstance(reply, Reply)
        assert reply.events == ()
        assert isinstance(event, Message)
        assert (event.name, event.get("ActionID")) == ("OriginateResponse", "t-1")

    def test_an_originate_response_passes_a_list_that_is_open(self) -> None:
        protocol = ready()
        protocol.send("Originate", [("ActionID", "dial-1")])
        list_id, _ = protocol.send("CoreShowChannels")
        protocol.receive(response("dial-1") + response(list_id, "EventList: start"))
        (event,) = protocol.receive(member("dial-1", "OriginateResponse", "Response: Success"))
        assert isinstance(event, Message)

    def test_a_second_response_does_not_disturb_a_list(self) -> None:
        protocol = ready()
        protocol.send("CoreShowChannels")
        half = LIST.index(HANGUP)
        items = protocol.receive(LIST[:half] + response("t-1", "Message: forged") + LIST[half:])
        assert items == fed(ready_with_one_action(), LIST)

    def test_a_list_that_was_cancelled_ends(self) -> None:
        protocol = ready()
        protocol.send("X")
        items = protocol.receive(
            response("t-1", "EventList: start") + member("t-1", "E", "EventList: Cancelled")
        )
        assert len(items) == 1

    @pytest.mark.parametrize("limits", [AmiLimits(max_list_events=2), AmiLimits(max_list_bytes=110)])
    def test_a_list_beyond_the_bounds_is_cut_and_says_so(self, limits: AmiLimits) -> None:
        protocol = ready(limits)
        protocol.send("X")
        protocol.receive(response("t-1", "EventList: start") + member("t-1", "E", "Some: more bytes") * 1000)
        (reply,) = protocol.receive(member("t-1", "EComplete", "EventList: Complete"))
        assert isinstance(reply, Reply)
        assert reply.truncated
        assert len(reply.events) == 2


class TestAbandoned:
    def test_a_late_reply_is_dropped(self) -> None:
        protocol = ready()
        protocol.send("X")
        protocol.abandon("t-1")
        assert protocol.receive(response("t-1")) == []
        assert protocol.pending == 0

    def test_a_late_list_is_dropped_and_what_follows_is_not(self) -> None:
        protocol = ready()
        protocol.send("X")
        protocol.abandon("t-1")
        assert [item.name for item in protocol.receive(LIST) if isinstance(item, Message)] == ["Hangup"]
        assert protocol.pending == 0

    def test_a_list_given_up_half_way_is_dropped(self) -> None:
        protocol = ready()
        protocol.send("X")
        half = len(LIST) // 2
        protocol.receive(LIST[:half])
        protocol.abandon("t-1")
        assert protocol._pending["t-1"].events == []
        assert protocol.receive(LIST[half:] + HANGUP)[-1] == one_event(HANGUP)
        assert protocol.pending == 0

    def test_its_originate_response_still_comes(self) -> None:
        protocol = ready()
        protocol.send("Originate")
        protocol.abandon("t-1")
        (event,) = protocol.receive(ORIGINATE)
        assert isinstance(event, Message)
        assert event.name == "OriginateResponse"

    def test_it_makes_room_when_room_is_needed(self) -> None:
        protocol = ready(AmiLimits(max_pending=2))
        protocol.send("A")
        protocol.send("B")
        with pytest.raises(Overloaded):
            protocol.send("C")
        protocol.abandon("t-1")
        protocol.send("C")
        assert protocol.pending == 2
        with pytest.raises(Overloaded):
            protocol.send("D")


class TestSending:
    def test_an_action_is_lines_and_an_empty_line(self) -> None:
        action_id, data = ready().send(
            "Originate", [("Variable", "A=1"), ("Variable", "B=José"), ("Async", "true")]
        )
        assert action_id == "t-1"
        assert data.decode() == (
            "Action: Originate\r\nActionID: t-1\r\nVariable: A=1\r\nVariable: B=José\r\nAsync: true\r\n\r\n"
        )

    def test_an_action_id_is_ours_where_one_is_given(self) -> None:
        protocol = ready()
        action_id, data = protocol.send("Originate", [("Async", "true"), ("actionid", "dial-1")])
        assert action_id == "dial-1"
        assert data == b"Action: Originate\r\nActionID: dial-1\r\nAsync: true\r\n\r\n"
        with pytest.raises(LocalProtocolError):
            protocol.send("Originate", [("ActionID", "dial-1")])
        assert protocol.pending == 1

    @pytest.mark.parametrize("bad", ["1\r\nAction: Originate", "1\n", "1\r", "1\0", "\ud800"])
    def test_what_would_break_a_line_is_refused_without_being_shown(self, bad: str) -> None:
        protocol = ready()
        for action, headers in [
            ("Originate", [("Variable", bad)]),
            (bad, []),
            ("Originate", [("ActionID", bad)]),
            ("Originate", [(f"Var{bad}", "x")]),
        ]:
            with pytest.raises(LocalProtocolError) as caught:
                protocol.send(action, headers)
            assert "1" not in str(caught.value)
        assert protocol.pending == 0

    @pytest.mark.parametrize("name", ["", "A B", "A:", "1A", "É"])
    def test_a_header_name_that_is_none_is_refused(self, name: str) -> None:
        with pytest.raises(LocalProtocolError):
            ready().send("X", [(name, "x")])

    def test_what_asterisk_would_not_read_is_refused(self) -> None:
        protocol = ready()
        protocol.send("X", [("Variable", "v" * 1012)])
        with pytest.raises(LocalProtocolError):
            protocol.send("X", [("Variable", "v" * 1013)])
        protocol.send("X", [("Variable", "v")] * 125)
        with pytest.raises(LocalProtocolError):
            protocol.send("X", [("Variable", "v")] * 126)

    def test_nothing_is_sent_before_the_banner(self) -> None:
        with pytest.raises(LocalProtocolError):
            AmiProtocol().send("Login")

    def test_a_variable_is_one_variable_whatever_its_value(self) -> None:
        assert variable_header("A", "1") == ("Variable", "A=1")
        value = 'x,B=2 "(q)" [z] \\'
        assert variable_header("A", value) == ("Variable", 'A=x\\,B=2 \\"\\(q\\)\\" \\[z\\] \\\\')
        for name in ("PJSIP_HEADER(add,P-Asserted-Identity)", "PJSIP_DTMF_MODE()"):
            assert variable_header(name, "1") == ("Variable", f"{name}=1")
        for name in ("", "A=B", "A,B", " A", '"A', "A(b", "A(b),C", "A((b))", "A(b=c)"):
            with pytest.raises(LocalProtocolError):
                variable_header(name, "1")

    def test_login_by_challenge_shows_no_secret(self) -> None:
        assert challenge_headers() == (("AuthType", "MD5"),)
        assert login_headers("me", "s3cret", challenge="143204838", events="call") == (
            ("Username", "me"),
            ("AuthType", "MD5"),
            ("Key", "81fcc7a1e5476d0c876730fd2411aee4"),
            ("Events", "call"),
        )

    def test_login_by_secret(self) -> None:
        assert login_headers("me", "s3cret") == (("Username", "me"), ("Secret", "s3cret"), ("Events", "on"))


class TestBounds:
    LIMITS = AmiLimits(max_message=100, max_message_lines=5)

    @pytest.mark.parametrize(
        "shape", [b"Event: X\r\nV: %s\r\n\r\n", b"Event: X\r\nV: %s", b"%s\r\n\r\n" + HANGUP]
    )
    def test_a_message_too_long_is_a_breach_however_it_comes(self, shape: bytes) -> None:
        data = shape % (b"v" * 120)
        for step in (1, 7, 1000):
            with pytest.raises(RemoteProtocolError):
                fed(ready(self.LIMITS), *[data[at : at + step] for at in range(0, len(data), step)])

    def test_a_message_of_the_very_length_passes(self) -> None:
        data = b"Event: X\r\nV: ".ljust(100, b"v") + b"\r\n\r\n"
        for step in (1, 1000):
            assert (
                len(fed(ready(self.LIMITS), *[data[at : at + step] for at in range(0, len(data), step)])) == 1
            )
        with pytest.raises(RemoteProtocolError):
            ready(self.LIMITS).receive(b"\r\n" + data.replace(b"X", b"XX"))

    def test_too_many_lines_are_a_breach(self) -> None:
        assert ready(self.LIMITS).receive(b"Event: X\r\n" + b"a:\r\n" * 4 + b"\r\n")
        with pytest.raises(RemoteProtocolError):
            ready(self.LIMITS).receive(b"Event: X\r\n" + b"a:\r\n" * 5 + b"\r\n")

    def test_old_output_without_an_end_is_a_breach(self) -> None:
        protocol = ready(self.LIMITS)
        with pytest.raises(RemoteProtocolError):
            fed(protocol, b"Response: Follows\r\nActionID: 1\r\n", *[b"line\r\n\r\n"] * 20)

    def test_empty_lines_take_no_room(self) -> None:
        assert fed(ready(self.LIMITS), *[b"\r\n"] * 1000, HANGUP[:0]) == []


def seconds_for(size: int, step: int) -> float:
    protocol = ready(AmiLimits(max_message=8 << 20))
    protocol.receive(b"Event: X\r\nValue: ")
    started = time.process_time()
    for _ in range(size // step):
        protocol.receive(b"v" * step)
    return time.process_time() - started


def test_time_is_linear_in_the_bytes() -> None:
    small = min(seconds_for(1 << 20, 32) for _ in range(3))
    assert seconds_for(4 << 20, 32) < 4 * small * 2.5


def test_a_second_of_thousands_of_events_costs_little() -> None:
    protocol = ready()
    data = HANGUP * 5000
    started = time.process_time()
    items = fed(protocol, *[data[at : at + 4096] for at in range(0, len(data), 4096)])
    assert sum(item.get("Uniqueid") == "att-1" for item in items if isinstance(item, Message)) == 5000
    assert time.process_time() - started < 0.5


PIECES = st.sampled_from(
    [
        b"\r\n",
        b"\r\n\r\n",
        b"\n",
        b"\r",
        b"Event: X\r\n",
        b"Event:",
        b"Response: Success\r\n",
        b"Response: Follows\r\n",
        b"ActionID: t-1\r\n",
        b"EventList: start\r\n",
        b"EventList: Complete\r\n",
        b"Output: o\r\n",
        b"--END COMMAND--",
        b"a: b",
        b"\xff",
        b"\0",
        b"x" * 40,
    ]
)


def outcome(chunks: list[bytes]) -> tuple[list[AmiItem], bool]:
    protocol = ready(AmiLimits(max_message=90, max_message_lines=4, max_list_events=2))
    protocol.send("X")
    items: list[AmiItem] = []
    try:
        for chunk in chunks:
            items += protocol.receive(chunk)
    except RemoteProtocolError:
        return items, True
    return items, False


@settings(max_examples=400)
@given(st.one_of(st.binary(max_size=300), st.lists(PIECES, max_size=30).map(b"".join)), st.integers(1, 40))
@example(b"\r\n\r\n\r\n" + b"\0" * 97, 1)
def test_any_bytes_in_any_pieces_come_to_the_same(data: bytes, size: int) -> None:
    whole, broken = outcome([data])
    cut, cut_broken = outcome([data[at : at + size] for at in range(0, len(data), size)])
    assert broken == cut_broken
    if not broken:
        assert cut == whole
    for item in cut:
        message = item.message if isinstance(item, Reply) else item
        assert isinstance(message, Message)
        fresh = Message(message.headers, message.output)
        assert all(message.get(name) == fresh.get(name) for name, _ in message.headers)


@given(st.text(max_size=60).filter(lambda name: name.lower() != "actionid"), st.text(max_size=60))
def test_what_is_sent_is_one_action_or_nothing(name: str, value: str) -> None:
    try:
        _, data = ready().send("Originate", [(name, value)])
    except LocalProtocolError:
        return
    lines = data.decode().split("\r\n")
    assert lines[2:] == [f"{name}: {value}", "", ""]
    assert not re.search("[\r\n\0]", value)
