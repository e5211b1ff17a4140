"""Containers on one machine: hosts with a network and a file system of their own, on one switch.

A host is a network namespace that is held open by this process, so that it goes with it; a
container is a process in the namespaces of a host (network, mounts, processes) with a root made
for it, as a kubelet makes one of a manifest: what the image holds is there to be read, what the
manifest mounts is its own, and there is nothing else. The image is the one whose root file system
ZML_IMAGE_ROOT names (``deploy/build-image.sh FOLDER`` leaves it in ``FOLDER/root``); else it is
made of this machine's own programs and this Python. Needs root, and a kernel that allows all this.
"""

from __future__ import annotations

import ctypes
import os
import shlex
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import zml_dask

CLONE_NEWNET = 0x40000000
PROGRAMS = ("ip", "unshare", "chroot", "mount")
NETWORK = "10.86.0"
_LIBC = ctypes.CDLL(None, use_errno=True)

# What an image of this machine holds: the system's programs, Python with its packages, and ours.
_IMAGE = ("/usr", "/bin", "/sbin", "/lib", "/lib64", "/etc")
_OF_THE_RUNTIME = ("dev", "proc", "run", "sys", "tmp")

_ROOT = """
set -euo pipefail
root=$1
mount -t tmpfs -o mode=0755 tmpfs "$root"
{mounts}
mkdir "$root/proc"
mount -t proc proc "$root/proc"
mount -o remount,ro "$root"
cd /
# Not exec: this shell is the first process, as tini is in the image, and reaps what is left.
chroot --userspec={user} --groups= "$root" /usr/bin/env -i {environment} {command}
exit $?
"""


def missing() -> str | None:
    """What this machine lacks for containers; None where it has all."""
    programs = [program for program in PROGRAMS if shutil.which(program) is None]
    if programs:
        return f"{', '.join(programs)} not installed: apt-get install iproute2 util-linux"
    if os.geteuid() != 0:
        return "network namespaces need root"
    tried = subprocess.run(
        ["unshare", "--net", "--mount", "--pid", "--ipc", "--fork", "bash", "-c", _TRIAL],
        capture_output=True,
        text=True,
    )
    return None if tried.returncode == 0 else f"no namespaces here: {tried.stderr.strip()}"


_TRIAL = """
mount -t tmpfs tmpfs /mnt && mkdir /mnt/usr && mount --bind /usr /mnt/usr &&
mount -o remount,bind,ro /mnt/usr && ip link add zml0 type bridge && ip link add type veth
"""


_FUNCTIONS = """
image() {
  [ -e "$1" ] && [ ! -e "$root$2" ] || return 0
  # In /etc, the runtime writes hosts.
  if [ -L "$1" ] || [ "$2" = /etc ]; then cp -a "$1" "$root$2"; return; fi
  mkdir -p "$root$2"
  mount --rbind "$1" "$root$2"
  mount -o remount,bind,ro "$root$2"
}
volume() {
  mkdir -p "$root$1"
  mount -t tmpfs -o mode=1777 tmpfs "$root$1"
}
"""


@dataclass(frozen=True)
class Host:
    """A network namespace with an address on the switch."""

    name: str
    address: str
    namespace: int

    @contextmanager
    def inside(self) -> Iterator[None]:
        """Have this thread, and the threads and processes it starts, on the host's network."""
        here = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        try:
            _enter(self.namespace)
            yield
        finally:
            _enter(here)
            os.close(here)


class Switch:
    """The hosts, by name, and the cables between them and the switch."""

    def __init__(self, names: Sequence[str]) -> None:
        self._stack = ExitStack()
        addresses = {name: f"{NETWORK}.{number}" for number, name in enumerate(names, 1)}
        self._switch = Host("switch", "", self._namespace())
        self.hosts = {
            name: Host(name, address, self._namespace()) for name, address in addresses.items()
        }
        with self._switch.inside():
            _ip("link add zml0 type bridge", "link set zml0 up")
            for name, host in self.hosts.items():
                peer = f"/proc/{os.getpid()}/fd/{host.namespace}"
                _ip(f"link add {name} type veth peer name eth0 netns {peer}")
                _ip(f"link set {name} master zml0 up")
        for host in self.hosts.values():
            with host.inside():
                _ip("link set lo up", f"address add {host.address}/24 dev eth0", "link set eth0 up")
                _ip("route add default dev eth0")  # by which a host finds its own address

    def _namespace(self) -> int:
        made: list[int] = []

        def make() -> None:
            if _LIBC.unshare(CLONE_NEWNET) == 0:
                made.append(os.open("/proc/thread-self/ns/net", os.O_RDONLY))

        thread = threading.Thread(target=make)
        thread.start()
        thread.join()
        self._stack.callback(os.close, made[0])
        return made[0]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def __getitem__(self, name: str) -> Host:
        return self.hosts[name]

    def cut(self, name: str) -> None:
        """Pull a host's cable: what is sent to it or by it is lost, and no error says so."""
        with self._switch.inside():
            _ip(f"link set {name} nomaster")

    def reconnect(self, name: str) -> None:
        """Put it back."""
        with self._switch.inside():
            _ip(f"link set {name} master zml0")

    def container(
        self, host: str, pod: Mapping[str, Any], secrets: Mapping[str, Any], log: Path
    ) -> subprocess.Popen[bytes]:
        """Run the first container of a pod on a host.

        `secrets` are folders of the secrets that the pod mounts, and mappings of those that it
        has as its environment. A host's name is its address's.
        """
        (container, *_) = pod["containers"]
        environment = {"LANG": "C.UTF-8", "HOME": "/tmp", **_path()}
        for source in container.get("envFrom", ()):
            environment |= secrets[source["secretRef"]["name"]]
        environment |= {each["name"]: each["value"] for each in container["env"]}
        words = [
            word.replace("$(DASK_WORKER_NAME)", f"{host}-{log.stem}") for word in container["args"]
        ]
        security = pod["securityContext"]
        user = f"{security['runAsUser']}:{security['runAsGroup']}"
        script = _ROOT.format(
            mounts=self._mounts(pod, container, secrets),
            user=user,
            environment=shlex.join(f"{name}={value}" for name, value in environment.items()),
            command=shlex.join(words),
        )
        root = log.with_suffix(".root")
        root.mkdir(exist_ok=True)
        namespaces = ["--mount", "--pid", "--ipc", "--uts", "--fork", "--kill-child"]
        with self.hosts[host].inside(), log.open("ab") as output:
            return subprocess.Popen(
                ["unshare", *namespaces, "bash", "-c", script, host, root],
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def _mounts(
        self, pod: Mapping[str, Any], container: Mapping[str, Any], secrets: Mapping[str, Any]
    ) -> str:
        lines = [_FUNCTIONS]
        lines += [shlex.join(["image", *pair]) for pair in (*_image(), ("/dev", "/dev"))]
        lines += ["volume /dev/shm", f"printf {shlex.quote(self._hosts_file())} > $root/etc/hosts"]
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        for mount in container.get("volumeMounts", ()):
            volume, path = volumes[mount["name"]], mount["mountPath"]
            lines.append(f"volume {path}")
            if "secret" in volume:
                folder = secrets[volume["secret"]["secretName"]]
                group = pod["securityContext"]["fsGroup"]
                lines.append(f"cp {shlex.quote(str(folder))}/* $root{path}/")
                lines.append(f"chown root:{group} $root{path}/*; chmod 0440 $root{path}/*")
        return "\n".join(lines)

    def _hosts_file(self) -> str:
        rows = [f"{host.address} {host.name}" for host in self.hosts.values()]
        return "\\n".join(["127.0.0.1 localhost", *rows, ""])


def _image() -> list[tuple[str, str]]:
    """Where each part of the image lies on this machine, and where in the container."""
    if built := os.environ.get("ZML_IMAGE_ROOT"):
        parts = sorted(part for part in Path(built).iterdir() if part.name not in _OF_THE_RUNTIME)
        return [(str(part), f"/{part.name}") for part in parts]
    packages = (sys.prefix, sys.base_prefix, str(Path(zml_dask.__file__).parent))
    return [(path, path) for path in (*_IMAGE, *packages)]


def _path() -> dict[str, str]:
    """The variables by which a container finds what it runs."""
    if os.environ.get("ZML_IMAGE_ROOT"):
        return {"PATH": "/opt/zml/bin:/usr/bin:/bin"}
    path = f"{Path(sys.executable).parent}:/usr/bin:/bin"
    return {"PATH": path, "PYTHONPATH": os.environ.get("PYTHONPATH", "")}


def _enter(namespace: int) -> None:
    if _LIBC.setns(namespace, CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")


def _ip(*commands: str) -> None:
    batch = "\n".join(commands)
    subprocess.run(["ip", "-batch", "-"], input=batch, text=True, check=True)
