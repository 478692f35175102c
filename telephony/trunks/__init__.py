"""Trunks: which one takes a call, whether it may now, and in which dialect its carrier wants it.

How the life of a call (`calls/lines.py`) uses them:

*Start.* For each trunk `work.slots.ensure`; `work.slots.sweep` with `own` frees what an earlier life held
without an attempt, once our name is ours; then `SlotDesk.start`.

*A call that may start now, where the desk is `quiet`.* In the transaction that writes its attempt:
`Router.plan`, without states, for the slots know them; then `work.slots.acquire` for the plan's `slots()`,
with the attempt's id as the holder. Where a trunk was taken, `Plan.route` is the attempt's trunk and reason;
else the call is written as one that waits, for the reason of `Plan.refusal`. A dry run reads the states
and takes nothing: `Router.preview`.

*A call that waits.* `SlotDesk.take` with its class's priority and the moment it was asked for, as long as its
own deadline lets it, given up at a cancel. Then the attempt is written whose id the holder is; where that
comes to nothing, `SlotDesk.give_back`.

*Dialling.* `Trunk.order` makes the order. Once it rings, `breaker.rings` where the slot was a probe.

*Its end.* In the transaction of the outcome `work.slots.release` of the attempt; then, where
`breaker.matters`, `work.trunks.breaker`, `breaker.after_call`, and `work.trunks.set_breaker` with an event
where it moved. In this order: a slot before a gate. After the commit `SlotDesk.freed`. Another trunk at once
is another plan, `but` those tried, and takes its slot in a transaction of its own: two gates in one could
make a circle of waiters.

*Custody* (`calls/custody.py`). With each round of leases `work.slots.renew` for the attempts in hand; with
each takeover `work.slots.hand` for theirs.

*The watch* (`watch.py`), every few seconds and when the PBX is back: the census, `work.slots.sweep`, what the
PBX reaches, saturation.

*An inbound call* on a trunk (`inbound.py`): `work.slots.admit` when it comes, `work.slots.release` when it
has gone. Whether it may come the PBX decides, by what `board.py` keeps there; `overflow.py` is the plan for
those whom it turns away. The census finds what nobody noted.

*An operator's word* (`operate.py`), over HTTP or at the PBX's console (`orders.py`), is written to the
trunk's row, and holds for the next call of every controller.
"""
