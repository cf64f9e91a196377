"""All that a Hub was sent, opened: archives into members, tables into their texts."""

from __future__ import annotations

import base64
import io
import json
import zipfile
from collections.abc import Iterator

import pyarrow.parquet


def opened(name: str, content: bytes) -> Iterator[tuple[str, bytes]]:
    """(name, bytes) of a file, and of what is packed in it."""
    yield name, content
    if zipfile.is_zipfile(io.BytesIO(content)):
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            for member in archive.namelist():
                yield from opened(f"{name}/{member}", archive.read(member))
    if name.endswith(".parquet"):
        table = pyarrow.parquet.read_table(io.BytesIO(content)).to_pydict()
        yield f"{name}/table", repr(table).encode()
    if name.endswith(".ndjson"):
        for operation in map(json.loads, content.splitlines()):
            if operation["key"] == "file":
                value = operation["value"]
                yield from opened(f"{name}/{value['path']}", base64.b64decode(value["content"]))


def everything_sent(hub) -> Iterator[tuple[str, bytes]]:
    """Files of all repositories, and the bodies of all requests, refused ones too."""
    for repo, held in hub.repos.items():
        for name, content in held.files.items():
            yield from opened(f"{repo}/{name}", content)
    for request, body in zip(hub.requests, hub.bodies, strict=True):
        yield from opened(f"{request}.ndjson" if "/commit/" in request else request, body)


def places(hub, secret: str) -> list[str]:
    """Where a text was sent."""
    return [name for name, content in everything_sent(hub) if secret.encode() in content]
