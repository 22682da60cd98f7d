"""What is shipped to those who run Keyosk: packages, and what is in deploy/."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
import tomllib
import zipfile
from contextlib import suppress
from importlib.metadata import distribution
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any, Final

import compose_spec
import pytest
import requests
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import pages
from live import ADMIN_PASSWORD, SECRET_KEY, LiveServer, command, environment, free_port
from processes import execute
from test_supply import needed_here

pytestmark = pytest.mark.slow

ROOT: Final = Path(__file__).resolve().parent.parent


# --- What is installed ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that `make build` writes its pins to."""
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run([sys.executable, "tools/supply.py", "pins", folder], cwd=ROOT, check=True)
    return folder


def pins(file: Path) -> dict[str, tuple[Requirement, set[str]]]:
    """The lines of a requirements file: each library with the hashes that pip accepts."""
    lines = file.read_text().replace("\\\n", "").splitlines()
    versions = {}
    for line in lines:
        text, *hashes = re.split(r" +--hash=", line)
        requirement = Requirement(text)
        versions[requirement.name] = (requirement, set(hashes))
    assert len(versions) == len(lines)
    return versions


@pytest.mark.parametrize(
    ("name", "extras"),
    [
        ("requirements.txt", set[str]()),
        ("requirements-postgresql.txt", {"postgresql"}),
        ("requirements-pkcs11.txt", {"pkcs11"}),
    ],
)
def test_the_pins_beside_the_wheel_are_the_locked_set_and_nothing_else(
    name: str, extras: set[str], dist: Path
) -> None:
    here = {
        library: str(requirement.specifier)
        for library, (requirement, _) in pins(dist / name).items()
        if requirement.marker is None or requirement.marker.evaluate()
    }
    needed = needed_here("keyosk", extras, {})
    assert here == {library: f"=={version}" for library, version in needed.items()}
    locked = {
        canonicalize_name(each["name"]): {file["hash"] for file in each["files"]}
        for each in tomllib.loads((ROOT / "poetry.lock").read_text())["package"]
    }
    for library, (_, hashes) in pins(dist / name).items():
        assert hashes == locked[canonicalize_name(library)], library


def test_every_extra_has_its_pins(dist: Path) -> None:
    extras = distribution("keyosk").metadata.get_all("Provides-Extra") or []
    files = {"requirements.txt", *(f"requirements-{each}.txt" for each in extras)}
    assert {each.name for each in dist.iterdir()} == files


def copy_of_the_sources(folder: Path, *, mode: int, stamp: int) -> None:
    """What the repository holds, with other permissions and times, and the tools made here."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True)
    for name in filter(None, listed.stdout.decode().split("\0")):
        copy = folder / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, copy)
        copy.chmod(mode | (ROOT / name).stat().st_mode & 0o100)
        os.utime(copy, (stamp, stamp))
    for made in (".venv", ".poetry"):
        (folder / made).symlink_to(ROOT / made)


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The folders in which `make build` was run; the packages are in their folder dist."""
    folders = []
    for name, mode, stamp in (("one", 0o644, 1_600_000_000), ("another", 0o664, 1_700_000_000)):
        folder = tmp_path_factory.mktemp(name)
        copy_of_the_sources(folder, mode=mode, stamp=stamp)
        # What is installed is that of these sources; it must not be changed from the copy.
        command = ["make", "--old-file=.venv/.development", "build"]
        subprocess.run(command, cwd=folder, check=True, capture_output=True)
        folders.append(folder)
    return folders


def test_make_build_in_two_folders_gives_the_same_bytes(packages: list[Path]) -> None:
    one, another = ({f.name: f.read_bytes() for f in (p / "dist").iterdir()} for p in packages)
    version = distribution("keyosk").version
    assert {f"keyosk-{version}-py3-none-any.whl", f"keyosk-{version}.tar.gz"} <= one.keys()
    assert {"requirements.txt", "requirements-postgresql.txt"} <= one.keys()
    assert one.keys() == another.keys()
    assert [name for name in one if one[name] != another[name]] == []


@pytest.mark.slow
def test_a_wheel_has_the_console_with_all_it_shows(packages: list[Path], tmp_path: Path) -> None:
    (wheel,) = (packages[0] / "dist").glob("keyosk-*.whl")
    zipfile.ZipFile(wheel).extractall(tmp_path)
    parts = {
        str(file.relative_to(ROOT))
        for folder in ("templates", "static")
        for file in (ROOT / "keyosk" / "console" / folder).iterdir()
    }
    assert len(parts) > 20
    assert [part for part in sorted(parts) if not (tmp_path / part).is_file()] == []
    (tmp_path / "data").mkdir()
    server = LiveServer(f"sqlite:///{tmp_path / 'data' / 'keyosk.db'}", tmp_path)
    server.environment["PYTHONPATH"] = str(tmp_path)  # before the sources, which are installed
    check = f"import keyosk; assert keyosk.__file__.startswith({str(tmp_path)!r})"
    server.program = (sys.executable, "-P", "-c", f"{check}; from keyosk.cli import main; main()")
    with server:
        browser = pages.logged_in(server, "admin", ADMIN_PASSWORD)
        for path in ("/console", "/console/accounts", "/me"):
            assert browser.get(path).status == 200
        for tag, given in browser.get("/console").tags:
            if tag in ("script", "link"):
                place = given.get("src") or given.get("href") or ""
                assert place.startswith("data:") or browser.client.get(place).status_code == 200


# --- The image ------------------------------------------------------------------------------------

DOCKERFILE: Final = ROOT / "deploy" / "Dockerfile"
ANY_USER: Final = "54321"


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile's instructions, each with its text."""
    text = re.sub(r"^#.*\n", "", DOCKERFILE.read_text(), flags=re.MULTILINE)
    lines = re.sub(r"\\\n\s*", "", text).splitlines()
    return [(line.split(" ", 1)[0], line.split(" ", 1)[1]) for line in lines if line]


def told(word: str) -> str:
    """The text of the one instruction of that name in the last stage."""
    last = max(at for at, (name, _) in enumerate(instructions()) if name == "FROM")
    (text,) = [text for name, text in instructions()[last:] if name == word]
    return text


def healthcheck() -> list[str]:
    command: list[str] = json.loads(told("HEALTHCHECK").split(" CMD ", 1)[1])
    return command


def environment_of_the_image() -> dict[str, str]:
    return dict(pair.split("=", 1) for pair in shlex.split(told("ENV")))


def test_the_image_runs_as_a_user_other_than_root_and_without_a_shell() -> None:
    assert told("USER") == "10001:0"
    assert (json.loads(told("ENTRYPOINT")), json.loads(told("CMD"))) == (["keyosk"], ["serve"])
    assert healthcheck() == ["keyosk", "health"]
    assert told("WORKDIR") == told("VOLUME") == "/var/lib/keyosk"


def test_nothing_but_what_make_build_writes_goes_into_the_image() -> None:
    rules = (ROOT / ".dockerignore").read_text().splitlines()
    first, *others = [rule for rule in rules if not rule.startswith("#")]
    copied = [text.split() for name, text in instructions() if name == "COPY"]
    from_context = [words[:-1] for words in copied if not words[0].startswith("--from=")]
    assert first == "*"
    assert [sorted(each) for each in from_context] == [sorted(each[1:] for each in others)]
    assert not [name for name, _ in instructions() if name == "ADD"]


def test_a_secret_has_no_place_in_the_image() -> None:
    settings = {name for name in environment_of_the_image() if name.startswith("KEYOSK_")}
    assert settings == {"KEYOSK_BIND"}
    assert {text.split("=")[0] for name, text in instructions() if name == "ARG"} == {
        "PYTHON", "VERSION", "REVISION",
    }  # fmt: skip


_BUILD: Final = """
set -eu
mkdir -p "$1/upper" "$1/work" "$1/root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$1/upper,workdir=$1/work" "$1/root"
mount --rbind /dev "$1/root/dev"
mount -t proc proc "$1/root/proc"
mkdir -p "$1/root/image/bin" "$1/root/dist"
ln -s /usr/bin/python3 "$1/root/image/bin/python"
printf '#!/bin/sh\nexec %s -m pip "$@"\n' "$2" >"$1/root/image/bin/pip"
chmod 755 "$1/root/image/bin/pip"
cp "$3"/dist/* "$1/root/dist"
PATH=/image/bin:$PATH exec chroot "$1/root" /bin/sh -euc "$4"
"""

_RUN: Final = """
set -eu
folder=$1 user=$2; shift 2
layers=lowerdir=/,upperdir=$folder/upper,workdir=$folder/work
mount -t overlay overlay -o "ro,$layers" "$folder/root"
mount --rbind /dev "$folder/root/dev"
mount -t proc proc "$folder/root/proc"
mount --bind "$folder/volume" "$folder/root/var/lib/keyosk"
exec chroot "$folder/root" /bin/sh -c 'cd /var/lib/keyosk; exec setpriv "$@"' sh \
    --reuid="$user" --regid="$user" --clear-groups --no-new-privs --bounding-set=-all "$@"
"""


def in_a_mount_namespace(script: str, *arguments: str | Path) -> list[str]:
    return ["unshare", "--mount", "sh", "-c", script, "sh", *map(str, arguments)]


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts file systems")
def test_the_image_is_built_and_runs_read_only_as_any_user(
    packages: list[Path], tmp_path: Path
) -> None:
    """Without a container engine: the lines of the Dockerfile, in a root over this one.

    What this machine cannot tell is whether the base image has what they need.
    """
    tmp_path.chmod(0o755)
    runs = "\n".join(text for name, text in instructions() if name == "RUN")
    build = in_a_mount_namespace(_BUILD, tmp_path, sys.executable, packages[0], runs)
    built = execute(build)
    assert built.returncode == 0, built.stderr
    assert "keyosk" in built.stdout
    installed = tmp_path / "upper" / "opt" / "keyosk" / "lib"
    assert len([*installed.glob("python3*/site-packages/*.dist-info")]) == len(
        needed_here("keyosk", {"postgresql"}, {"keyosk": ""})
    )

    volume, port = tmp_path / "volume", free_port()
    volume.mkdir(mode=0o700)
    os.chown(volume, int(ANY_USER), int(ANY_USER))
    environment = environment_of_the_image()
    path = environment["PATH"].replace("$PATH", "/usr/bin:/bin")
    environment |= {"PATH": path + ":/usr/sbin", "KEYOSK_BIND": f":{port}", "KEYOSK_WORKERS": "2"}
    environment |= {"KEYOSK_ISSUER": "https://login.example.org", "KEYOSK_METRICS_BIND": "off"}
    command = in_a_mount_namespace(
        _RUN, tmp_path, ANY_USER, *json.loads(told("ENTRYPOINT")), *json.loads(told("CMD"))
    )
    check = in_a_mount_namespace(_RUN, tmp_path, ANY_USER, *healthcheck())
    touch = in_a_mount_namespace(_RUN, tmp_path, "0", "touch", "/opt/keyosk/written")
    assert "Read-only file system" in execute(touch).stderr
    assert subprocess.run(check, env=environment, capture_output=True).returncode == 1
    with (tmp_path / "log").open("wb") as log:
        keyosk = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        await_health(keyosk, f"http://127.0.0.1:{port}/health/ready", tmp_path / "log")
        healthy = execute(check, env=environment)
        assert healthy.returncode == 0, healthy.stderr
        assert (volume / "data" / "keyosk.db").stat().st_uid == int(ANY_USER)
    finally:
        keyosk.send_signal(signal.SIGTERM)
        code = keyosk.wait(60)
    assert code == 0, (tmp_path / "log").read_text()


def await_health(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    """Wait until Keyosk is ready, at most a minute."""
    for _ in range(300):
        assert process.poll() is None, log.read_text()
        with suppress(requests.ConnectionError):
            if requests.get(url, timeout=60).status_code == 200:
                return
        time.sleep(0.2)
    raise AssertionError(log.read_text())


# --- systemd --------------------------------------------------------------------------------------

SYSTEMD: Final = ROOT / "deploy" / "systemd"
SERVICES: Final = ("keyosk.service", "keyosk-backup.service")
needs_systemd = pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="no systemd here")


def lines_of(unit: str, name: str) -> list[str]:
    """What a unit says of a setting."""
    return re.findall(rf"^{name}=(.*)$", (SYSTEMD / unit).read_text(), re.MULTILINE)


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """A root with this machine's units, ours, and files under the names that ours start."""
    root = tmp_path / "root"
    (root / "etc" / "systemd" / "system").mkdir(parents=True)
    for unit in [
        each for kind in ("service", "timer", "socket") for each in SYSTEMD.glob(f"*.{kind}")
    ]:
        shutil.copy(unit, root / "etc" / "systemd" / "system")
    shutil.copytree("/lib/systemd/system", root / "lib" / "systemd" / "system", symlinks=True)
    for program in ("opt/keyosk/bin/keyosk", "usr/bin/find", "bin/sh"):
        (root / program).parent.mkdir(parents=True, exist_ok=True)
        (root / program).touch(0o755)
    return root


@needs_systemd
def test_systemd_has_nothing_to_say_against_the_units(machine: Path) -> None:
    command = ["systemd-analyze", "verify", "--man=no", f"--root={machine}"]
    result = subprocess.run(
        [*command, *SERVICES, "keyosk-backup.timer", "keyosk.socket"], capture_output=True
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, b"", b"")


@needs_systemd
@pytest.mark.parametrize("unit", SERVICES)
def test_the_exposure_of_a_service_is_below_2(unit: str) -> None:
    command = ["systemd-analyze", "security", "--offline=true", "--no-pager", "--threshold=20"]
    result = execute([*command, SYSTEMD / unit])
    assert result.returncode == 0, result.stdout


@needs_systemd
@pytest.mark.skipif(os.geteuid() != 0, reason="makes files of another user")
@pytest.mark.skipif(not shutil.which("systemd-sysusers"), reason="no systemd here")
def test_the_user_and_the_folders_are_made(machine: Path) -> None:
    (machine / "etc" / "keyosk").mkdir()
    shutil.copy(SYSTEMD / "keyosk.env", machine / "etc" / "keyosk")
    root = f"--root={machine}"
    subprocess.run(["systemd-sysusers", root, SYSTEMD / "sysusers.conf"], check=True)
    subprocess.run(["systemd-tmpfiles", root, "--create", SYSTEMD / "tmpfiles.conf"], check=True)
    _, _, user, group, *_ = (machine / "etc" / "passwd").read_text().split(":")
    assert user != "0"
    settings = (machine / "etc" / "keyosk" / "keyosk.env").stat()
    assert (settings.st_mode & 0o777, settings.st_uid, settings.st_gid) == (0o640, 0, int(group))
    for folder in ("var/lib/keyosk", "var/backups/keyosk"):
        made = (machine / folder).stat()
        assert (made.st_mode & 0o777, made.st_uid) == (0o700, int(user)), folder


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user")
def test_root_runs_commands_as_the_user_of_the_service(tmp_path: Path) -> None:
    text = (SYSTEMD / "keyosk-command").read_text()
    (user,) = lines_of("keyosk.service", "User")
    (program,) = {line.split()[0] for line in lines_of("keyosk.service", "ExecStart")}
    (settings,) = lines_of("keyosk.service", "EnvironmentFile")
    assert {user, settings} <= set(re.findall(r"(?<=[-=])/?[\w/.]+(?=[ }])", text))
    assert f" {program} " in text

    shell = """/bin/sh -c 'id -u; echo "$KEYOSK_CONFIG" "$@"' sh"""
    text = text.replace(program, shell).replace(f"={user} ", "=65534 ")
    (wrapper := tmp_path / "wrapper").write_text(text.replace("--init-groups", "--clear-groups"))
    result = execute(["sh", wrapper, "account", "create", "a b"])
    assert (result.stdout, result.stderr) == (f"65534\n{settings} account create a b\n", "")


def test_the_environment_file_is_read_by_commands(tmp_path: Path) -> None:
    file = SYSTEMD / "keyosk.env"
    result = subprocess.run(
        command("--config", str(file), "config", "check"), cwd=tmp_path, env=environment(),
        capture_output=True, text=True,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    read = re.findall(
        rf"^(KEYOSK_\w+) .* file {re.escape(str(file))}$", result.stdout, re.MULTILINE
    )
    written = re.findall(r"^(KEYOSK_\w+)=", file.read_text(), re.MULTILINE)
    assert sorted(read) == sorted(written)


def test_the_backup_of_the_timer_can_be_restored(tmp_path: Path) -> None:
    """The line of the unit, as systemd reads it, in a folder of its own."""
    url = f"sqlite:///{tmp_path}/keyosk.db"
    settings = environment(database_url=url, secret_key=SECRET_KEY, admin_password=ADMIN_PASSWORD)
    subprocess.run(command("database", "upgrade"), env=settings, check=True, capture_output=True)
    (line,) = lines_of("keyosk-backup.service", "ExecStart")
    line = line.replace("$$", "$").replace("%%", "%")
    line = line.replace("/opt/keyosk/bin/keyosk", f'"{sys.executable}" -m keyosk')
    folder = tmp_path / "backups"
    folder.mkdir()
    subprocess.run(shlex.split(line), cwd=folder, env=settings, check=True, capture_output=True)
    (backup,) = folder.iterdir()
    restored = settings | {"KEYOSK_DATABASE_URL": f"sqlite:///{backup}"}
    subprocess.run(command("database", "check"), env=restored, check=True, capture_output=True)

    (after,) = lines_of("keyosk-backup.service", "ExecStartPost")
    (old := folder / "keyosk-20200101T023000Z.db").touch()
    os.utime(old, (1_600_000_000, 1_600_000_000))
    find = [word.replace("/var/backups/keyosk", str(folder)) for word in shlex.split(after)]
    subprocess.run(find, check=True)
    assert [*folder.iterdir()] == [backup]


# --- Compose --------------------------------------------------------------------------------------

DEPLOY: Final = ROOT / "deploy"
COMPOSE: Final[dict[str, Any]] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())


def test_what_compose_names_exists() -> None:
    for name, service in COMPOSE["services"].items():
        assert set(service.get("secrets", ())) <= COMPOSE["secrets"].keys(), name
        assert set(service["networks"]) <= COMPOSE["networks"].keys(), name
        assert set(service.get("depends_on", ())) <= COMPOSE["services"].keys(), name
        for source, *_ in (volume.split(":") for volume in service.get("volumes", ())):
            known = (DEPLOY / source).is_file() if "/" in source else source in COMPOSE["volumes"]
            assert known, (name, source)
        if build := service.get("build"):
            assert (DEPLOY / build["context"] / build["dockerfile"]).samefile(DOCKERFILE), name


def test_compose_accepts_its_file() -> None:
    text = (DEPLOY / "compose.yaml").read_text()
    compose_spec.PyCompose.from_yaml(text).validate()
    with pytest.raises(ValueError, match="read_onlyy"):
        compose_spec.PyCompose.from_yaml(text.replace("read_only:", "read_onlyy:"))


def test_only_caddy_is_reached_from_other_machines() -> None:
    ports = {name: each["ports"] for name, each in COMPOSE["services"].items() if "ports" in each}
    assert ports.pop("caddy") == ["443:443", "80:80"]
    assert all(port.startswith("127.0.0.1:") for each in ports.values() for port in each)
    assert COMPOSE["networks"]["back"]["internal"] is True
    assert COMPOSE["services"]["postgresql"]["networks"] == ["back"]


def test_only_the_headers_of_caddy_are_trusted() -> None:
    trusted = COMPOSE["services"]["keyosk-1"]["environment"]["KEYOSK_TRUSTED_PROXIES"]
    (front,) = COMPOSE["networks"]["front"]["ipam"]["config"]
    assert COMPOSE["services"]["caddy"]["networks"]["front"]["ipv4_address"] == trusted
    assert ip_address(trusted) in ip_network(front["subnet"])
    assert ip_address(trusted) not in ip_network(front["ip_range"])


def test_keyosk_takes_its_settings_and_secrets_from_compose(tmp_path: Path) -> None:
    shutil.copy(DEPLOY / "make-secrets.sh", tmp_path)
    made = []
    for _ in range(2):  # the second time changes nothing
        subprocess.run(["sh", tmp_path / "make-secrets.sh"], check=True, capture_output=True)
        made.append({f.name: f.read_text() for f in (tmp_path / "secrets").iterdir()})
    assert made[0] == made[1]
    assert {f"./secrets/{name}" for name in made[0]} == {
        each["file"] for each in COMPOSE["secrets"].values()
    }
    assert (tmp_path / "secrets").stat().st_mode & 0o777 == 0o700
    for name in ("keyosk-1", "keyosk-2"):
        service = COMPOSE["services"][name]
        settings = {"KEYOSK_BIND": environment_of_the_image()["KEYOSK_BIND"]}
        for key, value in service["environment"].items():
            text = value.replace("${LOGIN_HOST:-localhost}", "localhost")
            settings[key] = text.replace("/run/secrets", f"{tmp_path}/secrets")
        result = execute(command("config", "check"), cwd=tmp_path, env=environment() | settings)
        assert result.returncode == 0, result.stderr
        used = {key for key in service["environment"] if key.endswith("_FILE")}
        assert {Path(service["environment"][key]).name for key in used} == set(service["secrets"])


def test_caddy_and_prometheus_know_both_keyosks() -> None:
    both = {name for name in COMPOSE["services"] if name.startswith("keyosk-")}
    assert set(re.findall(r"(keyosk-\d):8080", (DEPLOY / "Caddyfile").read_text())) == both
    (job,) = yaml.safe_load((DEPLOY / "prometheus.yaml").read_text())["scrape_configs"]
    assert set(job["static_configs"][0]["targets"]) == {f"{name}:9464" for name in both}


@pytest.mark.skipif(not shutil.which("caddy"), reason="no Caddy here")
def test_caddy_accepts_its_file(tmp_path: Path) -> None:
    settings = os.environ | {"HOME": str(tmp_path), "LOGIN_HOST": "login.example.org"}
    command = ["caddy", "validate", "--adapter", "caddyfile", "--config", f"{DEPLOY}/Caddyfile"]
    subprocess.run(command, env=settings, check=True, capture_output=True)
