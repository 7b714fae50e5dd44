"""Who may know whom: the direction of imports, and where the private parts of other libraries are used."""

from __future__ import annotations

import ast
import importlib
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests.adapters
import urllib3.connection

import gemini_streams
import pykka_supervisor
from pykka_supervisor import _pykka

SUPERVISOR = Path(pykka_supervisor.__file__).parent
STREAMS = Path(gemini_streams.__file__).parent

HTTP = frozenset({"requests", "urllib3", "http.client"})


def modules(package: Path) -> list[Path]:
    found = sorted(package.rglob("*.py"))
    assert found
    return found


def imports(path: Path) -> Iterator[tuple[str, str]]:
    """Each import of a module: (module, name), the name empty where the module itself is imported."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, ""
        elif isinstance(node, ast.ImportFrom) and node.module is not None and not node.level:
            for alias in node.names:
                yield node.module, alias.name


def is_of(module: str, packages: frozenset[str] | set[str]) -> bool:
    return any(module == package or module.startswith(f"{package}.") for package in packages)


def is_private(dotted: str) -> bool:
    return any(part.startswith("_") and not part.startswith("__") for part in dotted.split("."))


def test_the_supervisor_knows_nothing_of_streams() -> None:
    wrong = [
        f"{path.name}: {module}"
        for path in modules(SUPERVISOR)
        for module, _ in imports(path)
        if is_of(module, {"gemini_streams"})
    ]
    assert wrong == []


def test_the_supervisor_can_be_imported_alone() -> None:
    """It brings neither the streams nor HTTP along."""
    code = (
        "import sys, pykka_supervisor, pykka_supervisor.testing;"
        "print(sorted({m.split('.')[0] for m in sys.modules} & {'gemini_streams', 'requests', 'urllib3', 'msgspec'}))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30)
    assert run.stdout.strip() == "[]"


def test_private_parts_of_pykka_are_used_in_one_place() -> None:
    wrong = [
        f"{path}: from {module} import {name}"
        for path in [*modules(SUPERVISOR), *modules(STREAMS)]
        if path.name != "_pykka.py"
        for module, name in imports(path)
        if is_of(module, {"pykka"}) and is_private(f"{module}.{name}")
    ]
    assert wrong == []


def test_the_streams_use_the_supervisors_public_names() -> None:
    wrong = [
        f"{path}: from {module} import {name}"
        for path in modules(STREAMS)
        for module, name in imports(path)
        if is_of(module, {"pykka_supervisor"}) and is_private(f"{module}.{name}")
    ]
    assert wrong == []


PYKKAS_OWN = {
    "_actor_loop",
    "_actor_ref",
    "_actor_refs",
    "_actor_refs_lock",
    "_actor_weakref",
    "_create_actor_inbox",
    "_create_future",
    "_handle_failure",
    "_handle_receive",
    "_start_actor_loop",
}
"""Attributes that Pykka's classes have for themselves. `_stop` is too common a name to look for."""


@pytest.mark.parametrize("package", [SUPERVISOR, STREAMS], ids=lambda p: p.name)
def test_private_attributes_of_pykka_are_used_in_one_place(package: Path) -> None:
    wrong = [
        f"{path}:{node.lineno}: .{node.attr}"
        for path in modules(package)
        if path.name != "_pykka.py"
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and node.attr in PYKKAS_OWN
        if not (isinstance(node.value, ast.Call) and isinstance(node.value.func, ast.Name))  # super()._…
    ]
    assert wrong == []


def test_pykkas_private_parts_are_where_they_were() -> None:
    assert _pykka.missing_hooks() == [], "Pykka has moved something that pykka_supervisor uses"


def test_http_is_spoken_in_one_place() -> None:
    """But for a dashboard's JSON, the environment's proxies, access tokens, and TLS contexts, made as urllib3 does."""
    allowed = {
        ("connection.py", "*"),
        ("connections.py", "*"),
        ("checks.py", "requests.utils.get_environ_proxies"),
        ("tokens.py", "requests"),
        ("top.py", "http.client"),
        ("trust.py", "requests.utils.DEFAULT_CA_BUNDLE_PATH"),
        ("trust.py", "urllib3.util.ssl_.create_urllib3_context"),
    }
    wrong = []
    for path in modules(STREAMS):
        for module, name in imports(path):
            used = f"{module}.{name}".rstrip(".")
            if is_of(module, HTTP) and not {(path.name, "*"), (path.name, used)} & allowed:
                wrong.append(f"{path}: {used}")
    assert wrong == []


HOOKS: dict[str, str] = {
    "urllib3.connection:HTTPConnection._new_conn": "makes the socket that an interrupt shuts down",
    "urllib3.connection:HTTPSConnection._new_conn": "makes the socket that an interrupt shuts down",
    "urllib3.connection:HTTPConnection.connect": "after it the socket's time-out is taken off",
    "urllib3.connection:HTTPSConnection.connect": "wraps the socket",
    "urllib3.connection:HTTPConnection._tunnel": "asks a proxy for a connection",
    "urllib3.connection:HTTPSConnection.set_tunnel": "takes the proxy's headers and its scheme",
    "urllib3.connection:port_by_scheme": "tells whether the Host header names a port",
    "urllib3.util.ssltransport:SSLTransport.recv": "reads TLS inside of TLS",
    "requests.adapters:HTTPAdapter.proxy_manager_for": "refuses proxies that it does not know",
    "requests.adapters:HTTPAdapter.get_connection_with_tls_context": "finds a route's way",
    "requests.adapters:HTTPAdapter.cert_verify": "checks that a route's certificates are there",
    "requests.adapters:HTTPAdapter.request_url": "finds a route's path",
}


@pytest.mark.parametrize("hook", HOOKS)
def test_what_connection_builds_on_is_where_it_was(hook: str) -> None:
    module, _, dotted = hook.partition(":")
    found: object = importlib.import_module(module)
    for part in dotted.split("."):
        assert hasattr(found, part), f"{hook} has moved: it {HOOKS[hook]}"
        found = getattr(found, part)


def test_what_a_route_reads_of_requests_is_where_it_was() -> None:
    adapter = requests.adapters.HTTPAdapter()
    request = requests.Request("POST", "https://server.example/x").prepare()
    for proxies in ({}, {"https": "https://proxy.example"}):
        pool: Any = adapter.get_connection_with_tls_context(request, verify=True, proxies=proxies)
        for name in ("scheme", "host", "port", "proxy", "proxy_headers", "proxy_config"):
            assert hasattr(pool, name), f"urllib3's HTTPConnectionPool.{name} has moved"
    assert (pool.host, pool.port, pool.proxy.host) == ("server.example", 443, "proxy.example")


def test_the_connections_own_attributes_are_where_they_were() -> None:
    connection = urllib3.connection.HTTPConnection("localhost")
    for name in (
        "sock",
        "timeout",
        "host",
        "port",
        "_tunnel_host",
        "_tunnel_port",
        "_tunnel_headers",
        "_tunnel_scheme",
    ):
        assert hasattr(connection, name), f"urllib3's HTTPConnection.{name} has moved"
    near, far = socket.socketpair()
    with (
        far,
        ssl.create_default_context().wrap_socket(
            near, server_hostname="x", do_handshake_on_connect=False
        ) as wrapped,
    ):
        assert hasattr(wrapped, "suppress_ragged_eofs"), "SSLSocket.suppress_ragged_eofs has moved"


# -- the order of the modules ----------------------------------------------------------------------------------------


def own_imports(path: Path, package: Path) -> Iterator[tuple[str, bool]]:
    """Each module of its own package that a module imports, also for types alone; and whether inside a function."""
    name = package.name
    tree = ast.parse(path.read_text())
    inside = {
        node.lineno
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        for node in ast.walk(function)
        if isinstance(node, ast.Import | ast.ImportFrom)
    }
    here = [name, *path.relative_to(package).parent.parts]
    for node in ast.walk(tree):
        if not isinstance(node, ast.ImportFrom):
            continue
        base = [*here[: len(here) + 1 - node.level], *(node.module or "").split(".")] if node.level else []
        module = ".".join(part for part in base if part) or (node.module or "")
        for alias in node.names:
            for found in (f"{module}.{alias.name}", module):
                where = package.parent / Path(*found.split("."))
                if found.startswith(f"{name}.") and (
                    where.with_suffix(".py").exists() or (where / "__init__.py").exists()
                ):
                    yield found, node.lineno in inside
                    break


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """The groups of modules that lead to one another."""

    def reached(start: str) -> set[str]:
        seen: set[str] = set()
        todo = [start]
        while todo:
            for following in graph.get(todo.pop(), ()):
                if following not in seen:
                    seen.add(following)
                    todo.append(following)
        return seen

    leads = {module: reached(module) for module in graph}
    found = {
        tuple(sorted(other for other in leads[module] if module in leads.get(other, ())))
        for module in graph
        if module in leads[module]
    }
    return [list(circle) for circle in sorted(found)]


@pytest.mark.parametrize("package", [SUPERVISOR, STREAMS], ids=lambda package: package.name)
def test_no_import_leads_back_to_its_module_not_even_for_types(package: Path) -> None:
    graph: dict[str, set[str]] = {}
    for path in modules(package):
        if path.name == "__init__.py":
            continue
        module = ".".join([package.name, *path.relative_to(package).with_suffix("").parts])
        graph[module] = {found for found, _ in own_imports(path, package)} - {module}
    assert sum(map(len, graph.values())) > 50
    assert circles(graph) == []


@pytest.mark.parametrize("package", [SUPERVISOR, STREAMS], ids=lambda package: package.name)
def test_no_function_imports_from_its_own_package(package: Path) -> None:
    wrong = [
        f"{path}: {found}"
        for path in modules(package)
        for found, in_function in own_imports(path, package)
        if in_function
    ]
    assert wrong == []


def test_a_circle_would_be_found() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [["a", "b", "c"]]
