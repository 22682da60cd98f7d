"""Real nginx, Apache and Envoy verify tokens offline, configured as their page says."""

import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import jwt
import pytest
import requests
import yaml
from cryptography.hazmat.primitives.asymmetric import ec

from live import ADMIN_PASSWORD, Client, LiveServer, free_port, unique, wait_for
from people import Person, claims_of, make_person, ok
from test_bad_tokens import verify
from test_proxies import Echo, missing, program, run_envoy, run_nginx
from test_tls import Secured
from waiting import until_it_listens

pytestmark = pytest.mark.slow

PAGE = Path(__file__).parent.parent / "docs/how-to/services/proxies.md"
_MODULES = Path("/usr/lib/apache2/modules")
_NJS = Path("/usr/lib/nginx/modules/ngx_http_js_module.so")


class Trusted(Secured):
    """A Keyosk with TLS, and clients that trust its certificate."""

    def client(self, username: str | None = None, secret: str = "") -> Client:
        client = super().client(username, secret)
        client.session.verify = str(self.first[0])
        return client

    def admin(self) -> Client:
        client = super().admin()
        client.session.verify = str(self.first[0])
        return client


class Scene:
    """A Keyosk with two services, a proxy before one of them, and alice who may use both."""

    def __init__(self, keyosk: LiveServer, admin: Client, issuer: str = "") -> None:
        self.keyosk = keyosk
        self.issuer = issuer or keyosk.url
        self.admin = admin
        self.name = unique("todo")
        self.other = f"{self.name}-2"
        for name in (self.name, self.other):
            body = {"name": name, "scopes": [f"{name}:read", f"{name}:write"]}
            ok(admin.post("/services", json=body), 201)
        scopes = f"{self.name}:read", f"{self.name}:write", f"{self.other}:read"
        self.alice: Person = make_person(admin, *scopes)
        self.echo = Echo(self.issuer, self.name)
        self.port = free_port()

    def configured(self, proxy: str) -> str:
        """The configuration of the docs, with this scene's addresses and service."""
        (text,) = re.findall(
            rf"^```\w+\n((?:#|//) offline: {proxy}\n.*?)^```$",
            PAGE.read_text(),
            re.DOTALL | re.MULTILINE,
        )
        configuration: str = text
        for written, used in (
            ("https://login.example.org", self.issuer),
            ("/services/todo/", f"/services/{self.name}/"),
            ("aud:todo", f"aud:{self.name}"),
            ("audiences: [todo]", f"audiences: [{self.name}]"),
            ('audience = "todo"', f'audience = "{self.name}"'),
            ("todo:read", f"{self.name}:read"),
            ("127.0.0.1:9000", f"127.0.0.1:{self.echo.server.server_port}"),
        ):
            configuration = configuration.replace(written, used)
        return configuration

    def token(self, **parameters: str) -> str:
        login = self.alice.login()
        login.session.verify = self.admin.session.verify
        return str(ok(login.post("/auth/token", data=parameters))["access_token"])

    def status(self, token: str | None) -> int:
        """The status that the proxy responds with. What passes must reach the service."""
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        before = self.echo.requests
        response = requests.get(f"http://127.0.0.1:{self.port}/todos", headers=headers, timeout=60)
        assert self.echo.requests - before == (response.status_code == 200)
        return response.status_code


def nginx(scene: Scene, folder: Path) -> "subprocess.Popen[bytes]":
    if not _NJS.exists():
        missing("njs")
    # Tokens of the tests expire within seconds.
    script = scene.configured("keyosk.js").replace("leeway = 10", "leeway = 1")
    (folder / "keyosk.js").write_text(script)
    lines = (
        scene.configured("nginx")
        .replace("/etc/nginx/keyosk.js", str(folder / "keyosk.js"))
        .replace("/var/cache/nginx/keyosk", str(folder / "cache"))
        .replace("listen 80;", f"listen 127.0.0.1:{scene.port};")
    )
    return run_nginx(folder, lines, f"load_module {_NJS};")


def apache(scene: Scene, folder: Path, certificate: Path) -> "subprocess.Popen[bytes]":
    if not (_MODULES / "mod_auth_openidc.so").exists():
        missing("mod_auth_openidc")
    names = ("mpm_event", "authz_core", "authn_core", "authz_user", "proxy", "proxy_http")
    loaded = "".join(
        f"LoadModule {name}_module {_MODULES}/mod_{name}.so\n" for name in (*names, "auth_openidc")
    )
    (folder / "apache.conf").write_text(
        f"""ServerRoot {folder}
DefaultRuntimeDir {folder}
PidFile {folder}/apache.pid
ErrorLog {folder}/apache.log
ServerName localhost
User www-data
Group www-data
Listen 127.0.0.1:{scene.port}
{loaded}
OIDCCABundlePath {certificate}
{scene.configured("Apache")}
"""
    )
    command = [program("apache2"), "-f", str(folder / "apache.conf"), "-DFOREGROUND"]
    return subprocess.Popen(command, stdin=subprocess.DEVNULL)


@pytest.fixture(scope="module")
def behind_apache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with (
        Trusted(tmp_path_factory.mktemp("keyosk")) as keyosk,
        # Apache's processes are another user's, who may not read the folders of tests.
        TemporaryDirectory(prefix="keyosk-apache-") as name,
        pytest.MonkeyPatch.context() as environment,
    ):
        folder = Path(name)
        folder.chmod(0o755)
        certificate = folder / "keyosk.crt"
        certificate.write_bytes(keyosk.first[0].read_bytes())
        environment.setenv("SSL_CERT_FILE", str(certificate))  # for PyJWT
        scene = Scene(keyosk, keyosk.admin())
        yield from running(scene, apache(scene, folder, certificate))


@pytest.fixture(scope="module")
def behind_nginx(
    server: LiveServer, admin: Client, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Scene]:
    scene = Scene(server, admin)
    yield from running(scene, nginx(scene, tmp_path_factory.mktemp("nginx")))


@pytest.fixture(scope="module")
def behind_envoy(
    server: LiveServer, admin: Client, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Scene]:
    scene = Scene(server, admin)
    text = scene.configured("Envoy").replace("clock_skew_seconds: 10", "clock_skew_seconds: 1")
    ports = {"keyosk": server.port, "todo": scene.echo.server.server_port}
    folder = tmp_path_factory.mktemp("envoy")
    yield from running(scene, run_envoy(folder, scene.port, yaml.safe_load(text), ports))


def running(scene: Scene, process: "subprocess.Popen[bytes]") -> Iterator[Scene]:
    try:
        until_it_listens(process, scene.port)
        yield scene
    finally:
        process.terminate()
        process.wait(timeout=60)
        scene.echo.server.shutdown()
        scene.echo.server.server_close()


def bad_tokens(scene: Scene) -> dict[str, str | None]:
    """What no verifier may accept, by what is wrong."""
    good, short = scene.token(audience=scene.name), scene.token(audience=scene.name, lifetime="1")
    head, body, signature = good.split(".")
    claims = claims_of(good)
    header = jwt.get_unverified_header(good)
    key = ec.generate_private_key(ec.SECP256R1())
    wait_for(claims_of(short)["exp"] + 2)
    return {
        "none": None,
        "junk": "x",
        "tampered": f"{head}.{body}.{signature[:-6]}AAAAAA",
        "unsigned": jwt.encode(claims, "", "none"),
        "another key": jwt.encode(claims, key, "ES256", headers=header),
        "another key of another kid": jwt.encode(claims, key, "ES256", headers={"kid": "x" * 43}),
        "a secret": jwt.encode(claims, "x" * 64, "HS256", headers={"kid": header["kid"]}),
        "another audience": scene.token(audience=scene.other),
        "without the scope": scene.token(scope=f"{scene.name}:write"),
        "expired": short,
    }


def assert_good_tokens_pass(scene: Scene) -> None:
    assert scene.status(scene.token(audience=scene.name)) == 200
    assert scene.status(scene.token(scope=f"{scene.name}:read")) == 200
    assert scene.status(scene.token()) == 200  # of two audiences and three scopes


@pytest.mark.attack
def test_nginx_takes_good_tokens_and_no_others(behind_nginx: Scene) -> None:
    assert_good_tokens_pass(behind_nginx)
    refused = bad_tokens(behind_nginx)
    found = {name: behind_nginx.status(text) for name, text in refused.items()}
    assert found == {name: 403 if name == "without the scope" else 401 for name in refused}


@pytest.mark.attack
def test_nginx_refuses_every_bad_token_but_the_revoked_one(
    server: LiveServer, admin: Client, tmp_path: Path
) -> None:
    bind = f"127.0.0.1:{free_port()}"
    scene = Scene(server, admin, f"http://{bind}")
    with contextmanager(running)(scene, nginx(scene, tmp_path)):
        url = f"http://127.0.0.1:{scene.port}/todos"
        _, verdicts = verify(server, url, scene.name, bind, "--scope", f"{scene.name}:read")
    wrong = {name: verdict for name, verdict in verdicts.items() if verdict != "right"}
    assert (len(verdicts) >= 30, wrong) == (True, {"revoked": "not polled"})


@pytest.mark.attack
def test_apache_takes_good_tokens_and_no_others(behind_apache: Scene) -> None:
    assert_good_tokens_pass(behind_apache)
    refused = bad_tokens(behind_apache)
    statuses = {name: behind_apache.status(text) for name, text in refused.items()}
    assert statuses == dict.fromkeys(refused, 401)


@pytest.mark.attack
def test_envoy_takes_good_tokens_and_no_others(behind_envoy: Scene) -> None:
    assert_good_tokens_pass(behind_envoy)
    refused = bad_tokens(behind_envoy)
    statuses = {name: behind_envoy.status(text) for name, text in refused.items()}
    forbidden = {"another audience", "without the scope"}
    assert statuses == {name: 403 if name in forbidden else 401 for name in refused}


def test_apache_fetches_the_keys_when_a_token_names_an_unknown_one(behind_apache: Scene) -> None:
    old = behind_apache.token(audience=behind_apache.name)
    assert behind_apache.status(old) == 200
    kid = jwt.get_unverified_header(old)["kid"]
    login = behind_apache.keyosk.client("admin", ADMIN_PASSWORD)
    ok(login.post(f"/signing-keys/{kid}/compromise"))

    new = behind_apache.token(audience=behind_apache.name)
    assert jwt.get_unverified_header(new)["kid"] != kid
    assert behind_apache.status(new) == 200
    assert behind_apache.status(old) == 401
