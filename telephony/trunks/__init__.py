"""Trunks: which one takes a call, whether it may now, and in which dialect its carrier wants it.

Calls go by the configuration alone today (`Router.choose`): nothing counts a trunk's lines. Slots, desk,
breakers, saturation and census stand ready; this is how the life of a call is to use them:

*Start.* For each trunk `work.slots.ensure(trunk.name, trunk.channels)`; then `work.slots.sweep` with `own`
frees what an earlier life held without an attempt; `SlotDesk.start`.

*A call that may start now, where the desk is `quiet`.* In the transaction that writes its attempt:
`Router.plan`, without states, for the slots know them; then `work.slots.acquire` for the plan's `slots()`,
with the attempt's id as the holder. Where a trunk was taken, `Plan.route` is the attempt's trunk and reason;
else the call is written as one that waits, for the reason of `Plan.refusal`. A dry run reads the states
(`work.trunks.all`, `work.slots.in_use`) and takes nothing: `Router.preview`.

*A call that waits.* `SlotDesk.take` with its class's priority and the moment it was asked for, as long as its
own deadline lets it, given up at a cancel. Then the attempt is written whose id the holder is; where that
comes to nothing, `work.slots.release`.

*Dialling.* `Trunk.order` makes the order. Once it rings, `breaker.rings` where the slot was a probe.

*Its end.* In the transaction of the outcome `work.slots.release` of the attempt; then, where
`breaker.matters`, `work.trunks.breaker`, `breaker.after_call`, and `work.trunks.set_breaker` with an event
where it moved. In this order: a slot before a gate. After the commit `SlotDesk.freed`. Another trunk at once
is another plan, `but` those tried, and takes its slot in a transaction of its own: two gates in one could
make a circle of waiters.

*Custody.* With each round of leases `work.slots.renew` for the attempts in hand; with each takeover
`work.slots.hand` for theirs.

*The census*, every few seconds and at each new link to the PBX: `Pbx.channels`, then `census.compare` with
`work.slots.held`, and what it says; `work.slots.sweep`; for each trunk `Pbx.reaches` and
`breaker.after_qualify`, each in a transaction of its own; `saturation.step` with `work.slots.in_use`, told by
whoever `work.trunks.saturate` or `recover` says is first.

*An inbound call* on a trunk: `work.slots.admit` when it comes, `work.slots.release` when it has gone.
"""
