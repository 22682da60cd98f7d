"""The layers: who may import whom, and which module owns which library (see keyosk/__init__.py)."""

import ast
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Final

import pytest

import keyosk
from keyosk.audit import Audit


def layers_of(docstring: str) -> tuple[tuple[str, ...], ...]:
    """The layers that the map draws, from the ground up: its lines are "name, name: what it is"."""
    lines = re.findall(r"^    ([a-z_]+(?:, [a-z_]+)*): \S", docstring, re.MULTILINE)
    return tuple(tuple(line.split(", ")) for line in reversed(lines))


#: A name stands for a module of keyosk/ or for a package with all inside it.
LAYERS: Final = layers_of(keyosk.__doc__ or "")
TOP_LEVEL: Final = frozenset(name for layer in LAYERS for name in layer)

# A library that is not listed has no place yet: give it one here.
OWNERS: Final[Mapping[str, tuple[str, ...]]] = {
    "peewee": ("storage",),
    "playhouse": ("storage",),
    "psycopg": ("storage",),
    "passlib": ("credentials.password_hashing",),
    "argon2": ("credentials.argon2id",),
    "zxcvbn": ("credentials.password_policy",),
    "webauthn": ("credentials.passkeys",),
    "pyotp": ("credentials.one_time_codes",),
    "segno": ("console.second_factors",),
    "precis_i18n": ("credentials.usernames",),
    "cryptography": ("keys.material", "keys.imported_keys"),
    "pkcs11": ("keys.hsm",),
    "jwt": ("keys.jws", "tokens.access_tokens", "workloads.assertions"),
    "flask": ("web", "console", "app", "traces.spans"),
    "flask_restful": ("web", "app"),
    "werkzeug": ("web", "console", "app"),
    "jinja2": ("console",),
    "apispec": ("web",),
    "flask_swagger_ui": ("web",),
    "marshmallow": ("web",),
    "greenlet": ("suspension",),
    "gunicorn": ("server",),
    "httptools": ("server",),
    "click": ("cli",),
    "yaml": ("cli.documents",),
    "httpcore2": ("workloads.fetching",),
    "httpx2": ("cli.client", "cli.local", "cli.remote"),
    "opentelemetry": ("traces.spans",),
    "rich": ("cli.tables",),
    "uuid_utils": ("ids",),
    "prometheus_client": ("metrics",),
}

# Imports inside functions: (module, what it imports) -> why it cannot stand at the top.
LOCAL_IMPORTS: Final[Mapping[tuple[str, str], str]] = {
    ("storage.drivers", "keyosk.storage.postgresql.Postgresql"): "its driver is an extra",
    ("__main__", "keyosk.cli"): "a failure of the import itself is told as others are",
    ("keys.hsm", "pkcs11"): "its driver is an extra",
    ("traces", "keyosk.traces.spans"): "its libraries are an extra",
    ("traces", "keyosk.traces.spans.Tracing"): "its libraries are an extra",
    (
        "traces.spans",
        "opentelemetry.instrumentation.psycopg.PsycopgInstrumentor",
    ): "it imports a driver that is an extra",
    ("workloads.key_sets", "keyosk.workloads.fetching"): "a start imports no HTTP client",
    ("cli", "keyosk.cli.completion"): "only a shell that completes needs it",
    **{
        (f"cli.{module}", f"keyosk.cli.{target}"): "--help and completion import nothing heavy"
        for module, target in (
            ("api_keys", "api_key_search"),
            ("apply", "documents"),
            ("audit", "machine"),
            ("doctor", "diagnosis"),
            ("doctor", "diagnosis_of_server"),
            ("operations", "health"),
            ("operations", "machine"),
            ("operations", "serving"),
            ("login", "remote"),
            ("shared", "local"),
            ("shared", "remote"),
            ("shared", "tables"),
            ("signing_keys", "machine"),
            ("tokens", "machine"),
            ("verify_service", "service_check"),
        )
    },
    **dict.fromkeys(
        (
            ("console.second_factors", "segno"),
            ("credentials.passkeys", "webauthn"),
            ("credentials.passkeys", "webauthn.helpers.structs"),
            ("credentials.password_hashing", "passlib.context.CryptContext"),
            ("metrics", "keyosk.metrics.exposition"),
            ("web.documentation", "flask_swagger_ui"),
            ("web.documentation", "keyosk.web.openapi"),
            ("web.metrics", "keyosk.web.openapi"),
        ),
        "it slows down each start, and few processes need it",
    ),
    ("cli.global_options", "keyosk.config"): "--help and completion import nothing heavy",
    ("cli.lazy", "importlib.import_module"): "a command is imported when it is asked for",
    ("cli.signing_keys", "keyosk.keys.material"): "--help and completion import nothing heavy",
}


#: What writes rows of the audit log.
AUDIT_WRITERS: Final = frozenset({"record", "record_all", "refuse", "count_failed_login"})


@dataclass(frozen=True)
class Import:
    """One imported name, at one place."""

    module: str
    target: str
    line: int
    is_local: bool


@cache
def _parsed(source: str) -> ast.Module:
    return ast.parse(source)


@dataclass(frozen=True)
class Package:
    """The modules of a package, by dotted name without the package's own: "" is the package."""

    name: str
    sources: Mapping[str, str] = field(repr=False)  # a failed test prints the package
    packages: frozenset[str]

    @classmethod
    def read(cls, root: Path) -> "Package":
        sources, packages = {}, set()
        for path in sorted(root.rglob("*.py")):
            parts = path.relative_to(root).with_suffix("").parts
            if parts[-1] == "__init__":
                parts = parts[:-1]
                packages.add(".".join(parts))
            sources[".".join(parts)] = path.read_text(encoding="utf-8")
        return cls(root.name, sources, frozenset(packages))

    def imports(self) -> list[Import]:
        return [
            Import(module, target, line, is_local)
            for module, source in self.sources.items()
            for target, line, is_local in self._imports_of(module, source)
        ]

    def inside(self, target: str) -> str | None:
        """The module of this package that ``target`` is (part of); None if it is a library's."""
        if target.partition(".")[0] != self.name:
            return None
        name = target.removeprefix(self.name).removeprefix(".")
        while name not in self.sources:
            name = name.rpartition(".")[0]
        return name

    def _imports_of(self, module: str, source: str) -> Iterator[tuple[str, int, bool]]:
        for node, is_local in _walk(_parsed(source), is_local=False):
            match node:
                case ast.Import(names=names):
                    for alias in names:
                        yield alias.name, node.lineno, is_local
                case ast.ImportFrom(names=names):
                    origin = self._origin(module, node)
                    for alias in names:
                        yield f"{origin}.{alias.name}", node.lineno, is_local
                case ast.Call(func=ast.Name(id="__import__") | ast.Attribute(attr="import_module")):
                    # What it imports cannot be read, so it has no place outside LOCAL_IMPORTS.
                    yield "importlib.import_module", node.lineno, True

    def _origin(self, module: str, node: ast.ImportFrom) -> str:
        if not node.level:
            return node.module or ""
        parts = [self.name, *filter(None, module.split("."))]
        steps = node.level - (module in self.packages)
        return ".".join(parts[: len(parts) - steps] + ([node.module] if node.module else []))


def _walk(node: ast.AST, *, is_local: bool) -> Iterator[tuple[ast.AST, bool]]:
    inner = is_local or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
    for child in ast.iter_child_nodes(node):
        yield child, inner
        yield from _walk(child, is_local=inner)


def _top_level(module: str) -> str:
    return module.partition(".")[0]


def _height(name: str) -> int:
    heights = {each: height for height, layer in enumerate(LAYERS) for each in layer}
    return heights.get(name, -1)


def upward_imports(package: Package) -> list[str]:
    """Imports of another package, or module beside the packages, that is not in a lower layer."""
    return [
        f"{found.module}:{found.line} imports {target}, which is not below it"
        for found in package.imports()
        if (target := package.inside(found.target)) is not None
        and _top_level(target) != _top_level(found.module)
        and _height(_top_level(target)) >= _height(_top_level(found.module))
    ]


def import_cycles(package: Package) -> list[str]:
    graph: dict[str, set[str]] = {module: set() for module in package.sources}
    for found in package.imports():
        target = package.inside(found.target)
        if target is not None and target != found.module:
            graph[found.module].add(target)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return [" <- ".join(error.args[1])]
    return []


def foreign_imports(package: Package) -> list[str]:
    faults = []
    for found in package.imports():
        library = found.target.partition(".")[0]
        if library == package.name or library in sys.stdlib_module_names:
            continue
        owners = OWNERS.get(library, ())
        if not any(f"{found.module}.".startswith(f"{owner}.") for owner in owners):
            names = ", ".join(owners or ("nobody yet",))
            faults.append(f"{found.module}:{found.line} imports {library}, owned by {names}")
    return faults


def local_imports(package: Package) -> list[str]:
    return [
        f"{found.module}:{found.line} imports {found.target} inside a function"
        for found in package.imports()
        if found.is_local and (found.module, found.target) not in LOCAL_IMPORTS
    ]


def writes_in_web(package: Package) -> list[str]:
    """Transactions, and rows of the audit log, that are made in the layer of HTTP."""
    return [
        f"{module}:{node.lineno} calls {node.func.attr}"
        for module, source in package.sources.items()
        if _top_level(module) == "web"
        for node in ast.walk(_parsed(source))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and (
            node.func.attr == "transaction"
            or (_last_name(node.func.value) == "audit" and node.func.attr in AUDIT_WRITERS)
        )
    ]


def readers_of_authorization(package: Package) -> list[str]:
    """Modules that look at the ``Authorization`` of a request."""
    reads = re.compile(r'headers(\.get\(|\[)"Authorization"[,)\]](?! =)|"Authorization" (not )?in ')
    return [module for module, source in package.sources.items() if reads.search(source)]


def _last_name(node: ast.expr) -> str:
    match node:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name.lstrip("_")
    return ""


@pytest.fixture(scope="module")
def package() -> Package:
    return Package.read(Path(keyosk.__file__).parent)


def test_the_checks_look_at_keyosk_itself(package: Package) -> None:
    assert package.name == "keyosk"
    assert {"", "model", "errors", "storage"} <= package.sources.keys()


def test_imports_only_go_down(package: Package) -> None:
    assert upward_imports(package) == []


def test_no_modules_import_each_other(package: Package) -> None:
    assert import_cycles(package) == []


def test_every_library_is_used_by_its_owner_only(package: Package) -> None:
    assert foreign_imports(package) == []


def test_imports_stand_at_the_top(package: Package) -> None:
    assert local_imports(package) == []


def test_web_makes_no_transaction_and_no_row_of_the_audit_log(package: Package) -> None:
    assert writes_in_web(package) == []


def test_the_authorization_of_a_request_is_read_in_one_place(package: Package) -> None:
    assert readers_of_authorization(package) == ["web.authorization"]


def test_the_audit_log_is_written_by_what_is_looked_for() -> None:
    assert all(hasattr(Audit, name) for name in AUDIT_WRITERS)


def test_every_exception_to_that_is_still_needed(package: Package) -> None:
    assert LOCAL_IMPORTS.keys() <= {
        (found.module, found.target) for found in package.imports() if found.is_local
    }


def test_every_package_is_on_the_map_once(package: Package) -> None:
    drawn = [name for layer in LAYERS for name in layer]
    assert sorted(drawn) == sorted({_top_level(module) for module in package.sources} - {""})


def test_every_package_says_what_it_owns(package: Package) -> None:
    silent = [
        name
        for name in package.packages & TOP_LEVEL
        if "own" not in (ast.get_docstring(_parsed(package.sources[name])) or "").lower()
    ]
    assert silent == []


# --- The checks themselves, on small houses with one fault ----------------------------------------


def build_package(root: Path, files: Mapping[str, str]) -> Package:
    for name, source in files.items():
        path = root / "keyosk" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)
    return Package.read(root / "keyosk")


def test_a_sound_house_has_no_fault(tmp_path: Path) -> None:
    package = build_package(
        tmp_path,
        {
            "__init__.py": "",
            "model.py": "import json",
            "ids.py": "import uuid_utils.compat",
            "storage/__init__.py": "from keyosk.storage.tables import Table",
            "storage/tables.py": "import peewee\nfrom keyosk import model",
            "accounts.py": "from keyosk import model, storage",
            "tokens/access_tokens.py": "import jwt\nfrom keyosk.accounts import Accounts",
            "web/__init__.py": "",
            "web/token.py": "import flask\nfrom keyosk.tokens.access_tokens import issue",
            "web/basic.py": "",
            "app.py": "from keyosk.web import token",
        },
    )
    for check in (upward_imports, import_cycles, foreign_imports, local_imports):
        assert check(package) == []


@pytest.mark.parametrize(
    ("module", "statement", "target"),
    [
        pytest.param("model", "import keyosk.config", "config", id="plain"),
        pytest.param(
            "storage/tables", "from keyosk import accounts", "accounts", id="from-package"
        ),
        pytest.param(
            "storage/tables", "from keyosk.accounts import A", "accounts", id="from-module"
        ),
        pytest.param("storage/tables", "from ..accounts import A", "accounts", id="relative"),
        pytest.param("storage/__init__", "from .. import accounts", "accounts", id="relative-init"),
        pytest.param("accounts", "from keyosk.web.token import T", "web.token", id="into-package"),
        pytest.param("web/token", "def f():\n    import keyosk.app", "app", id="in-function"),
        pytest.param("web/token", "if 1:\n    from keyosk import server", "server", id="in-block"),
        pytest.param("tokens/a", "from keyosk import apply", "apply", id="same-layer"),
    ],
)
def test_an_upward_import_is_seen(tmp_path: Path, module: str, statement: str, target: str) -> None:
    rest = ("config", "accounts", "apply", "web/token", "app", "server", "__init__")
    files = {f"{name}.py": "" for name in rest} | {f"{module}.py": statement}
    (fault,) = upward_imports(build_package(tmp_path, files))
    importer = module.replace("/", ".").removesuffix(".__init__")
    assert fault.startswith(f"{importer}:")
    assert f"imports {target}," in fault


@pytest.mark.parametrize(
    "files",
    [
        pytest.param(
            {
                "accounts.py": "from keyosk import tokens",
                "tokens.py": "from keyosk import accounts",
            },
            id="two-modules",
        ),
        pytest.param(
            {
                "a.py": "from keyosk.b import x",
                "b.py": "from keyosk.c import x",
                "c.py": "import keyosk.a",
            },
            id="three-modules",
        ),
        pytest.param(
            {
                "storage/__init__.py": "from keyosk.storage.tables import T",
                "storage/tables.py": "from keyosk.storage import T",
            },
            id="package-and-its-module",
        ),
    ],
)
def test_a_cycle_is_caught(tmp_path: Path, files: dict[str, str]) -> None:
    assert import_cycles(build_package(tmp_path, {"__init__.py": ""} | files)) != []


@pytest.mark.parametrize(
    ("module", "statement", "fault"),
    [
        ("accounts", "import peewee", "accounts:1 imports peewee, owned by storage"),
        (
            "web/token",
            "from jwt import encode",
            "web.token:1 imports jwt, owned by keys.jws, tokens.access_tokens, "
            "workloads.assertions",
        ),
        (
            "storage/tables",
            "from flask import g",
            "storage.tables:1 imports flask, owned by web, console, app, traces.spans",
        ),
        ("model", "import requests", "model:1 imports requests, owned by nobody yet"),
        ("accounts", "import requests", "accounts:1 imports requests, owned by nobody yet"),
    ],
)
def test_a_foreign_library_is_seen(tmp_path: Path, module: str, statement: str, fault: str) -> None:
    package = build_package(tmp_path, {"__init__.py": "", f"{module}.py": statement})
    assert foreign_imports(package) == [fault]


@pytest.mark.parametrize(
    "source",
    [
        "def f():\n    import json",
        "async def f():\n    from json import dumps",
        "class C:\n    def f(self):\n        if self:\n            import json",
        "import importlib\nimportlib.import_module('keyosk.app')",
        "__import__('keyosk.app')",
    ],
)
def test_an_import_inside_a_function_is_caught(tmp_path: Path, source: str) -> None:
    package = build_package(tmp_path, {"__init__.py": "", "accounts.py": source})
    assert len(local_imports(package)) == 1


@pytest.mark.parametrize(
    "statement",
    [
        "self.installation.database.transaction()",
        "with database.transaction():\n    pass",
        'installation.audit.record(by, "x", None)',
        "self._audit.refuse(by)",
    ],
)
def test_a_write_in_web_is_caught(tmp_path: Path, statement: str) -> None:
    files = {"__init__.py": "", "web/__init__.py": "", "accounts.py": statement}
    assert writes_in_web(build_package(tmp_path, files)) == []
    assert len(writes_in_web(build_package(tmp_path, files | {"web/token.py": statement}))) == 1
