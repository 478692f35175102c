"""The house stands: a room imports only rooms below it, as `docs/architecture.md` draws them."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2] / "telephony"

GROUND = {"errors", "model", "resources"}
MAY_KNOW: dict[str, set[str]] = {
    "__init__": set(),
    "errors": set(),
    "resources": set(),
    "logs": set(),
    "model": {"errors"},
    "wire": {"model", "errors"},
    "net": {"wire", "model", "errors"},
    "pbx": {"net", "wire", "model", "errors"},
    "speech": {"model", "errors", "resources"},
    "store": {"model", "errors"},
    "egress": {"store", "model", "errors"},
    "trunks": {"pbx", "store", "model", "errors"},
    "calls": {"trunks", "pbx", "store", "model", "errors"},
    "ivr": {"speech", "pbx", "egress", "calls", "store", "model", "errors", "resources"},
    "queues": {"pbx", "store", "model", "errors"},
    "services": {"calls", "trunks", "pbx", "speech", "store", "egress", "queues", "ivr", "model", "errors"},
    "lab": {"net", "pbx", "wire", "model", "errors", "resources"},
}
TOP = {"api", "console", "cli", "settings", "app", "demo", "doctor", "__main__"}
API_MAY_KNOW = {"services", "model", "errors", "api", "settings", "logs", "resources"}


def room_of(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def imports_of(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {room_of(alias.name) for alias in node.names if alias.name.split(".")[0] == "telephony"}
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "telephony":
            if node.module == "telephony":
                found |= {alias.name for alias in node.names if not alias.name.startswith("__")}
            else:
                found.add(room_of(node.module))
    return found


FILES = sorted(ROOT.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_room_imports_only_rooms_below_it(path: Path) -> None:
    relative = path.relative_to(ROOT)
    room = relative.parts[0].removesuffix(".py")
    used = imports_of(path) - {room}
    if room == "api":
        assert used <= API_MAY_KNOW, f"{relative} imports {sorted(used - API_MAY_KNOW)}"
    elif room in TOP:
        return
    else:
        assert room in MAY_KNOW, f"{room} is not drawn: add it to the table and to docs/architecture.md"
        assert used <= MAY_KNOW[room], f"{relative} imports {sorted(used - MAY_KNOW[room])}"


def test_the_pure_rooms_know_no_socket() -> None:
    for path in [*(ROOT / "wire").rglob("*.py"), *(ROOT / "model").rglob("*.py")]:
        tree = ast.parse(path.read_text())
        names = {
            alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names
        } | {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        assert not {name.split(".")[0] for name in names} & {"asyncio", "socket", "ssl", "threading"}, path
