"""`telephony trunks` and its commands; what asks a controller is in `trunk_orders`, sizing is here.

Sizing asks no controller: it counts from numbers given, or reads the store of a configuration. What it
never does: write to a store, migrate it, or reach a PBX.
"""

from __future__ import annotations

import asyncio
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from telephony.cli.exits import Exit, fail
from telephony.cli.options import Json
from telephony.cli.output import count, print_json, quiet_logs
from telephony.cli.stored import open_stored
from telephony.cli.trunk_orders import drain, limit, resume, trunks

if TYPE_CHECKING:
    from zoneinfo import ZoneInfo

    from telephony.settings import Settings
    from telephony.trunks.erlang import Target
    from telephony.trunks.forecast import Forecast, HourOfWeek, LoadByHour

PAGE: Final = 2_000
LOSS: Final = 0.01
QUANTILE: Final = 0.9
WEEKS: Final = 4
TARGETS: Final = "80/15,99/15"
_TARGET: Final = re.compile(r"(\d{1,2}(?:\.\d{1,6})?)/(\d{1,5}(?:\.\d{1,3})?)")

_SOURCES: Final = ("erlangs", "calls_per_hour", "from_store")
_FITS: Final = {
    "aht": ("calls_per_hour", "agents"),
    "target": ("agents",),
    "patience": ("agents",),
    "cost_per_agent_hour": ("agents",),
    "config": ("from_store",),
    "weeks": ("from_store",),
    "trunk": ("from_store",),
    "zone": ("from_store",),
    "quantile": ("from_store",),
    "plot": ("from_store",),
}
"""Options that mean something only beside one of these."""

app = typer.Typer(help="Show trunks, drain, resume or limit one, or count the lines that are needed.")
app.callback(invoke_without_command=True)(trunks)
for _command in (drain, resume, limit):
    app.command()(_command)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What agents are asked for: service levels, the callers' patience (seconds), an agent's cost an hour."""

    targets: tuple[Target, ...]
    patience: float | None
    cost: float | None


@app.command()
def size(
    context: typer.Context,
    erlangs: Annotated[float | None, typer.Option(metavar="E", help="The load in Erlang.")] = None,
    calls_per_hour: Annotated[float | None, typer.Option(metavar="N", help="The load in calls.")] = None,
    aht: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="How long a call takes on average, all told.")
    ] = None,
    from_store: Annotated[
        bool, typer.Option("--from-store", help="The load of the calls recorded, by hour of the week.")
    ] = False,
    loss: Annotated[
        float | None, typer.Option(metavar="SHARE", help=f"Calls that may find no line; else {LOSS}.")
    ] = None,
    agents: Annotated[bool, typer.Option("--agents", help="Count agents instead of lines.")] = False,
    target: Annotated[
        str | None,
        typer.Option(
            metavar="P/T,…", help=f"P % are answered within T seconds; each in turn; else {TARGETS}."
        ),
    ] = None,
    patience: Annotated[
        float | None,
        typer.Option(metavar="SECONDS", help="How long callers wait on average before they give up."),
    ] = None,
    cost_per_agent_hour: Annotated[
        float | None, typer.Option(metavar="C", min=0.0, help="Tells what the levels cost, in any currency.")
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="The configuration; else as for `telephony serve`.")
    ] = None,
    weeks: Annotated[int | None, typer.Option(help=f"So many weeks, up to this hour; else {WEEKS}.")] = None,
    trunk: Annotated[str | None, typer.Option(metavar="NAME", help="This trunk alone.")] = None,
    zone: Annotated[
        str | None,
        typer.Option(metavar="ZONE", help="Whose hours, such as Asia/Shanghai; else this machine's."),
    ] = None,
    quantile: Annotated[
        float | None,
        typer.Option(metavar="SHARE", help=f"Lines suffice in this share of the weeks; else {QUANTILE}."),
    ] = None,
    plot: Annotated[Path | None, typer.Option(metavar="SVG", help="Draw the week there.")] = None,
    as_json: Json = False,
) -> None:
    """Tell how many lines a load needs, or how many agents, from numbers or from the calls recorded."""
    from telephony.trunks.erlang import load_of

    given = {name for name, value in context.params.items() if value is not None and value is not False}
    _check_options(given)
    wanted = None
    if agents:
        wanted = Wanted(targets=_targets(target or TARGETS), patience=patience, cost=cost_per_agent_hour)
    if from_store:
        share = LOSS if loss is None else loss
        forecast = _forecast(
            config,
            _zone(zone),
            WEEKS if weeks is None else weeks,
            trunk,
            share,
            QUANTILE if quantile is None else quantile,
            talk=agents,
        )
        _tell_forecast(forecast, trunk, wanted, plot, as_json=as_json)
        return
    load = (erlangs or 0.0) if calls_per_hour is None else load_of(calls_per_hour, aht or 0.0)
    if wanted is None:
        _tell_lines(load, LOSS if loss is None else loss, as_json=as_json)
    else:
        _tell(_agents(load, aht or 0.0, wanted), as_json=as_json)


def _check_options(given: set[str]) -> None:
    """End the program where options don't go together."""
    sources = [name for name in _SOURCES if name in given]
    if len(sources) != 1:
        fail(Exit.USAGE, "give the load once: --erlangs, --calls-per-hour with --aht, or --from-store")
    for name, beside in _FITS.items():
        if name in given and not given & set(beside):
            fail(Exit.USAGE, f"{_option(name)} needs {' or '.join(map(_option, beside))} beside it")
    if "aht" in given and "from_store" in given:
        fail(Exit.USAGE, "--aht is measured from the calls recorded; leave it out")
    needs_aht = "calls_per_hour" in given or ("agents" in given and "from_store" not in given)
    if needs_aht and "aht" not in given:
        fail(Exit.USAGE, "--aht is missing: how many seconds a call takes on average")
    if "loss" in given and "agents" in given:
        fail(Exit.USAGE, "--loss counts lines; agents are counted for --target")


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _targets(text: str) -> tuple[Target, ...]:
    from telephony.trunks.erlang import Target

    targets = []
    for part in text.split(","):
        found = _TARGET.fullmatch(part.strip())
        if found is None:
            fail(Exit.USAGE, f"--target: {part[:20]!r} is no service level. Write 80/15 for 80 % within 15 s")
        targets.append(Target(float(found[1]) / 100.0, float(found[2])))
    return tuple(targets)


# ---- numbers given


def _tell_lines(load: float, share: float, *, as_json: bool) -> None:
    from telephony.trunks.erlang import lines_for, loss

    lines = lines_for(load, share)
    lost = loss(load, lines)
    if as_json:
        print_json({"erlangs": load, "target_loss": share, "lines": lines, "loss": lost})
        return
    print(f"{load:.2f} E need {count(lines, 'line')}: {_percent(lost)} lost, {_percent(share)} allowed")


def _agents(load: float, aht: float, wanted: Wanted) -> dict[str, Any]:
    """How many agents each service level takes, and what it costs beside the first."""
    from telephony.trunks.erlang import agents_for, service_of

    rows: list[dict[str, Any]] = []
    for target in wanted.targets:
        agents = agents_for(load, aht, target, wanted.patience)
        met = service_of(load, agents, aht, target, wanted.patience)
        row = {"share": target.share, "within": target.within, "agents": agents, **asdict(met)}
        row["more_agents"] = agents - (rows[0]["agents"] if rows else agents)
        if wanted.cost is not None:
            row["cost_per_hour"] = agents * wanted.cost
            row["more_cost_per_hour"] = row["more_agents"] * wanted.cost
        rows.append(row)
    return {"erlangs": load, "aht": aht, "patience": wanted.patience, "targets": rows}


def _tell(counted: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json(counted)
    else:
        _show_agents(counted)


def _show_agents(counted: dict[str, Any]) -> None:
    patience = counted["patience"]
    callers = "who all wait" if patience is None else f"who give up after {patience:g} s on average"
    print(f"{counted['erlangs']:.2f} E of {counted['aht']:g} s each, from callers {callers}")
    costs = "cost_per_hour" in counted["targets"][0]
    heads = ["target", "agents", "answered in time", "wait", "give up", "busy", "more agents"]
    rows: list[list[str]] = []
    for row in counted["targets"]:
        cells = [
            f"{row['share'] * 100:g} % in {row['within']:g} s",
            str(row["agents"]),
            _percent(row["level"]),
            f"{row['average_wait']:.1f} s",
            _percent(row["abandoned"]),
            _percent(row["occupancy"]),
            f"{row['more_agents']:+d}" if rows else "",
        ]
        if costs:
            cells += [f"{row['cost_per_hour']:.2f}", f"{row['more_cost_per_hour']:+.2f}" if rows else ""]
        rows.append(cells)
    _print_table([*heads, *(["cost an hour", "more an hour"] if costs else [])], rows)


# ---- calls recorded


def _forecast(
    config: Path | None,
    zone: ZoneInfo,
    weeks: int,
    trunk: str | None,
    loss: float,
    quantile: float,
    *,
    talk: bool,
) -> Forecast:
    """The week that the store's calls lead to expect; with `talk` only the time after the answer counts."""
    from telephony.settings import load_settings

    quiet_logs()
    load = asyncio.run(_measure(load_settings(config), zone, weeks, trunk, talk=talk))
    forecast = load.forecast(loss=loss, quantile=quantile)
    if not forecast.calls:
        what = "were answered" if talk else "were made"
        fail(Exit.FAILED, f"no calls {what} in {count(weeks, 'week')}{f' on trunk {trunk}' if trunk else ''}")
    return forecast


async def _measure(
    settings: Settings, zone: ZoneInfo, weeks: int, trunk: str | None, *, talk: bool
) -> LoadByHour:
    """Add up the attempts of a store, a page at a time; each page is a short transaction of its own."""
    from telephony.trunks.forecast import LoadByHour, last_weeks

    async with open_stored(settings, "sizing") as store:
        now = await store.now_ms()
        since, until = last_weeks(zone, now, weeks)
        load = LoadByHour(zone, since, until)
        after = ""
        while True:
            async with store.reading() as work:
                # A call that runs into the period began at most a day before.
                page = await work.attempts.times(
                    since - 86_400_000, until, trunk=trunk, after=after, limit=PAGE
                )
            for one in page:
                start = one.answered_at if talk else one.dialed_at
                if start is not None:
                    end = now if one.ended_at is None else one.ended_at
                    load.add(start, max(0, end - start) / 1000)
            if len(page) < PAGE:
                return load
            after = page[-1].id


def _tell_forecast(
    forecast: Forecast, trunk: str | None, wanted: Wanted | None, plot: Path | None, *, as_json: bool
) -> None:
    from telephony.trunks.erlang import LEAST_SECONDS
    from telephony.trunks.forecast import DAYS
    from telephony.trunks.plot import svg

    busiest = forecast.busiest
    if plot is not None:
        title = f"Trunk {trunk}" if trunk else "All trunks"
        try:
            plot.write_text(svg(forecast, title), "utf-8")
        except OSError as error:
            fail(Exit.USAGE, f"--plot: {plot} can't be written ({error.strerror})")
    counted = (
        None if wanted is None else _agents(busiest.high, max(forecast.mean_seconds, LEAST_SECONDS), wanted)
    )
    if as_json:
        print_json(
            {
                "zone": forecast.zone.key,
                "since": _rfc3339(forecast.since),
                "until": _rfc3339(forecast.until),
                "trunk": trunk,
                "calls": forecast.calls,
                "aht": forecast.mean_seconds,
                "target_loss": forecast.loss,
                "quantile": forecast.quantile,
                "busiest": _hour_json(busiest),
                "hours": [_hour_json(hour) for hour in forecast.hours],
            }
            | ({"agents": counted} if counted is not None else {})
        )
        return
    since, until = (
        f"{datetime.fromtimestamp(moment / 1000, forecast.zone):%Y-%m-%d %H:%M}"
        for moment in (forecast.since, forecast.until)
    )
    calls = f"{count(forecast.calls, 'call')} of {forecast.mean_seconds:.0f} s"
    print(f"{calls}, {since} to {until} {forecast.zone.key}")
    print(
        f"busiest: {DAYS[busiest.weekday]} {busiest.hour:02}:00, {busiest.high:.2f} E "
        f"({busiest.mean:.2f} E on average)"
    )
    if counted is not None:
        _show_agents(counted)
        return
    print(f"lines for at most {_percent(forecast.loss)} lost:")
    rows = [
        [f"{hour:02}:00", *(_lines_cell(forecast.hours[day * 24 + hour]) for day in range(len(DAYS)))]
        for hour in range(24)
    ]
    _print_table(["", *DAYS], rows)


def _lines_cell(hour: HourOfWeek) -> str:
    return f"{hour.lines} ({hour.high:.1f} E)" if hour.samples else "–"


def _hour_json(hour: HourOfWeek) -> dict[str, Any]:
    from telephony.trunks.forecast import DAYS

    return {**asdict(hour), "weekday": DAYS[hour.weekday]}


def _rfc3339(moment: int) -> str:
    return datetime.fromtimestamp(moment / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _zone(name: str | None) -> ZoneInfo:
    """The zone of this name, or this machine's; UTC where that has no name."""
    from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

    try:
        return ZoneInfo(name or os.environ.get("TZ") or _zone_of_machine() or "UTC")
    except (ZoneInfoNotFoundError, ValueError, OSError):
        if name is None:
            return ZoneInfo("UTC")
        fail(Exit.USAGE, f"--zone: {name[:60]!r} is no time zone. Write an IANA name such as Asia/Shanghai")


def _zone_of_machine() -> str:
    """What /etc/localtime leads to, by its name."""
    return str(Path("/etc/localtime").resolve()).partition("/zoneinfo/")[2]


# ---- saying things


def _percent(share: float) -> str:
    return f"{share * 100:.3g} %"


def _print_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for place, head in enumerate(heads):
        table.add_column(head, justify="right" if place else "left", no_wrap=True)
    for row in rows:
        table.add_row(*map(Text, row))
    Console(width=None if sys.stdout.isatty() else 240).print(table)
