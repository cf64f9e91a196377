"""Wheels for a machine without network that has PyTorch and transformers of its own.

pip resolves and fetches. It is told that `torch` and `transformers` are two empty wheels made here,
so that neither they nor what they bring (CUDA's libraries, Triton) are fetched: the tree of
dependencies ends at them. What both need and others need as well, such as numpy, is fetched: pip on
the other machine takes it where the version there will not do.
"""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
import sysconfig
import tempfile
import zipfile
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

THERE = ("torch", "transformers")
OFFLINE = re.compile(
    r"NewConnectionError|NameResolutionError|ConnectTimeoutError|ProxyError|Max retries exceeded"
    r"|Could not fetch URL|Network is unreachable"
)
NO_WHEEL = re.compile(r"(?:No matching distribution found for|satisfies the requirement) ([^\s(]+)")


@dataclass(frozen=True)
class Target:
    """The machine that the wheels are for; this one's Python and platform where nothing is given.

    Attributes:
        python: as in `3.12`.
        platforms: tags as pip knows them, `manylinux_2_28_x86_64`; pip takes no other tag for one
            of them, so an older one may be needed beside it.
    """

    python: str | None = None
    platforms: tuple[str, ...] = field(default=())

    def options(self) -> list[str]:
        python = ["--python-version", self.python] if self.python else []
        return python + [part for p in self.platforms for part in ("--platform", p)]

    def __str__(self) -> str:
        python = self.python or f"{sys.version_info.major}.{sys.version_info.minor}"
        return f"Python {python} on {', '.join(self.platforms) or sysconfig.get_platform()}"


def asked(root: Path, target: Target) -> dict[str, str]:
    """What the wheels depend on: with the same answers they need not be fetched again."""
    files = [root / "pyproject.toml", *sorted((root / "trl_lambda").rglob("*.py"))]
    content = hashlib.sha256()
    for path in files:
        content.update(f"{path.relative_to(root)}\0".encode() + path.read_bytes())
    return {
        "target": str(target),
        "package": content.hexdigest(),
        **{name: version(name) for name in THERE},
    }


def fetch(root: Path, target: Target, folder: Path) -> list[Path]:
    """The wheel of the package, built from its checkout, and those of all that it needs.

    Args:
        root: of the checkout.
        folder: an empty one, for the wheels.

    Raises:
        SystemExit: pip failed; the message says why as far as pip tells.
    """
    with tempfile.TemporaryDirectory() as temporary:
        there = Path(temporary) / "there"
        stubs = [empty_wheel(there, name, machine_version(name)) for name in THERE]
        constraints = Path(temporary) / "constraints.txt"
        constraints.write_text("".join(f"{n}=={machine_version(n)}\n" for n in THERE))
        ours = build(root, Path(temporary), target)
        pip(
            *("download", "--only-binary=:all:", "--dest", str(folder)),
            *("--find-links", str(there), "--constraint", str(constraints)),
            *target.options(),
            str(ours),
            target=target,
        )
    for stub in stubs:
        (folder / stub.name).unlink()
    return sorted(folder.glob("*.whl"))


def build(root: Path, folder: Path, target: Target) -> Path:
    pip("wheel", "--no-deps", "--wheel-dir", str(folder), str(root), target=target)
    (ours,) = folder.glob("*.whl")
    return ours


def machine_version(name: str) -> str:
    """This machine's version, marked so that no index has it."""
    return f"{version(name).partition('+')[0]}+machine"


def empty_wheel(folder: Path, name: str, version: str, requires: tuple[str, ...] = ()) -> Path:
    """A wheel with nothing in it, and no needs but those given."""
    folder.mkdir(parents=True, exist_ok=True)
    path, info = folder / f"{name}-{version}-py3-none-any.whl", f"{name}-{version}.dist-info"
    needs = "".join(f"Requires-Dist: {one}\n" for one in requires)
    files = {
        "METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{needs}",
        "WHEEL": "Wheel-Version: 1.0\nGenerator: here\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        "RECORD": "".join(f"{info}/{file},,\n" for file in ("METADATA", "WHEEL", "RECORD")),
    }
    with zipfile.ZipFile(path, "w") as wheel:
        for file, text in files.items():
            wheel.writestr(f"{info}/{file}", text)
    return path


def pip(*arguments: str, target: Target) -> None:
    command = [sys.executable, "-m", "pip", *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(explained(done.stdout + done.stderr, arguments[0], target))


def explained(output: str, verb: str, target: Target) -> str:
    """What failed and what to do; the end of what pip said comes last."""
    said = "\n".join(output.strip().splitlines()[-6:])
    if OFFLINE.search(output):  # first: without an index pip finds no distribution either
        why = (
            "pip reached no package index. A pack is made on a machine with network; run the same "
            "command again there, or when the network is back: what is whole is kept."
        )
    elif found := NO_WHEEL.findall(output):
        why = (
            f"There is no wheel of {found[-1]} for {target}. Name the Python (--python_version "
            "3.12) and the platform tags (--platform manylinux_2_28_x86_64 manylinux_2_17_x86_64) "
            "that the machine has: python -m pip debug --verbose lists them there."
        )
    else:
        why = f"`pip {verb}` failed for {target}."
    return f"--gpu-pack: {why}\npip said:\n{said}"
