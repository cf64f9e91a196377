"""`--gpu-pack FOLDER`: all that a machine needs which has a GPU and no network, in one folder.

    FOLDER/README.md       the one shell line that the machine runs
    FOLDER/SHA256SUMS      of all other files but pack.json
    FOLDER/model/          the warm start of --output_dir if it is there, else the converted model
    FOLDER/tasks/          the problems of the parts, a line each
    FOLDER/wheels/         this package and what it needs, without PyTorch and transformers
    FOLDER/recipes/        the benchmark itself
    FOLDER/pack.json       what the wheels were fetched for

No file has more than `PART` bytes: a longer one comes in parts, which the shell line joins. Kill it
whenever you like: what is there with the right sum is kept.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shlex
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from trl_lambda.atomic_write import replace_file, replace_json

from . import gpu_wheels
from .model import ORIGIN, known_as, model_folder
from .plan import Plan, ready
from .tasks import word_rows
from .warm_start import STARTS, warm_start_of

PART = 50 * 2**20  # bytes; some machines take no file of more than 60 MB
RECIPES = Path(__file__).resolve().parents[2]
# Modules that the benchmark imports; all else in recipes/ stays behind.
CODE = ("benchmarks/language", "benchmarks/learning", "benchmarks/quiet.py", "quickstart_parts")
PARTS = ("held_out", "validation", "training")
MARK, ORIGIN_FILE, SUMS = "pack.json", "packed.json", "SHA256SUMS"

# Twelve trainings at a time, as many as these options make: 4 arms with 3 seeds each.
TEN_MINUTES = "--workers 12 --micro_batch 32 --rates 1e-5 --seeds 0 1 2 --steps 60 --held_out 128"
# What the machine is told as it was told here; another of them given leaves all of the above out.
RUN_OPTIONS = (
    *("arms", "rates", "seeds", "tuning_seeds", "size", "groups", "completions", "micro_batch"),
    *("steps", "held_out", "samples", "measurements", "checkpoint_every", "workers"),
    *("budget_hours", "keep_models"),
)
JOIN = (
    "find . -name '*.part-000' | while read -r f; do "
    'cat "${f%000}"[0-9][0-9][0-9] > "${f%.part-000}" || exit 1; done'
)


class Pack:
    """A folder that is filled file by file; what is there with the right sum is kept.

    Attributes:
        sums: SHA-256 of each file by its name, which is its path in the folder.
        written: names of the files that were not there.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.sums: dict[str, str] = {}
        self.written: list[str] = []

    def add(self, name: str, content: bytes) -> None:
        path = self.folder / name
        self.sums[name] = hashlib.sha256(content).hexdigest()
        if not self.has(name, self.sums[name]):
            path.parent.mkdir(parents=True, exist_ok=True)
            replace_file(path, lambda unfinished: unfinished.write_bytes(content))
            self.written.append(name)

    def add_file(self, name: str, source: Path) -> None:
        """As it is, or in parts named `NAME.part-000` and so on."""
        if source.stat().st_size <= PART:
            self.add(name, source.read_bytes())
            return
        for i, block in enumerate(blocks(source)):
            self.add(f"{name}.part-{i:03}", block)

    def has(self, name: str, sum_: str) -> bool:
        path = self.folder / name
        if not path.is_file():
            return False
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == sum_

    def finish(self) -> None:
        """Writes the sums, and removes what an earlier pack or a kill left among the files."""
        for part in {name.partition("/")[0] for name in self.sums if "/" in name}:
            for path in (self.folder / part).rglob("*"):
                if path.is_file() and str(path.relative_to(self.folder)) not in self.sums:
                    path.unlink()
        lines = "".join(f"{sum_}  {name}\n" for name, sum_ in sorted(self.sums.items()))
        replace_file(self.folder / SUMS, lambda unfinished: unfinished.write_text(lines))

    def size(self) -> str:
        sizes = [(self.folder / name).stat().st_size for name in self.sums]
        return (
            f"{len(sizes)} files, {sum(sizes) / 1e6:.0f} MB in all; "
            f"the largest has {max(sizes) / 1e6:.1f} MB"
        )


def blocks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while block := file.read(PART):
            yield block


def write_pack(args: argparse.Namespace, plan: Plan) -> None:
    """Fills `args.gpu_pack`, and says what to do with it.

    Args:
        plan: what `args` ask for; what would fail on the machine is refused here.

    Raises:
        SystemExit: the task needs network, the plan cannot be run, the folder holds other files,
            there is no model, or a wheel cannot be had.
    """
    if args.task != "words":
        raise SystemExit(
            f"--gpu-pack --task {args.task}: its model and data come from the Hub, which the "
            "machine cannot reach; a pack is made of the task words."
        )
    ready(plan)
    pack = opened(args.gpu_pack)
    warm = add_model(pack, args)
    data = Path(args.data) if args.data else None
    add_tasks(pack, plan.parts() if data else PARTS, data)
    add_recipes(pack)
    target = gpu_wheels.Target(args.python_version, tuple(args.platform or ()))
    add_wheels(pack, target)
    options = run_options(args)
    if not warm and "demonstrations" in args.given:
        options += f" --demonstrations {args.demonstrations}"
    line = shell_line(options)
    # The size is that of the files before the README, which names it.
    pack.add("README.md", readme(line, str(target), pack.size()).encode())
    pack.finish()
    print(
        f"{args.gpu_pack}: {pack.size()}. {len(pack.written)} were written, the others were "
        f"there. For {target}. In a copy of this folder, on the machine with the GPU:\n\n"
        f"{line}"
    )


def run_options(args: argparse.Namespace) -> str:
    """Those given, as the shell takes them; those for ten minutes where none is."""
    words = []
    for name in RUN_OPTIONS:
        if name in args.given:
            value = getattr(args, name)
            values = value if isinstance(value, list) else [] if value is True else [value]
            words += [f"--{name}", *map(str, values)]
    return shlex.join(words) or TEN_MINUTES


def opened(folder: Path) -> Pack:
    """The folder, new or that of an earlier pack.

    Raises:
        SystemExit: something else is there.
    """
    if folder.exists() and not folder.is_dir():
        raise SystemExit(
            f"--gpu-pack {folder}: this is a file; expected a folder, or no such path."
        )
    if folder.exists() and any(folder.iterdir()) and not (folder / MARK).exists():
        names = ", ".join(sorted(path.name for path in folder.iterdir())[:5])
        raise SystemExit(
            f"--gpu-pack {folder}: the folder is not empty ({names}), and has no {MARK} of an "
            "earlier pack. Name a new folder."
        )
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / MARK).exists():
        replace_json(folder / MARK, {"wheels": None})
    return Pack(folder)


def add_model(pack: Pack, args: argparse.Namespace) -> bool:
    """The warm start, if it was made; otherwise the model that the machine makes it of.

    Returns:
        Whether it is the warm start.
    """
    origin = known_as(args.model) if args.model else ORIGIN
    warm, made = warm_start_of(origin, args.output_dir, STARTS[args.demonstrations])
    started = warm.exists()
    source = warm if started else Path(args.model or model_folder(args.source, plain_folder(args)))
    if not any(source.glob("*.safetensors")):
        raise SystemExit(
            f"--gpu-pack with the model {source}: expected a folder with *.safetensors; "
            "`save_pretrained` of transformers writes one."
        )
    print(f"model: the {'warm start' if started else 'model before its warm start'}, {source}")
    for path in sorted(source.iterdir()):
        if path.is_file():
            pack.add_file(f"model/{path.name}", path)
    record = {"origin": origin, "made": made if started else None}
    pack.add(f"model/{ORIGIN_FILE}", (json.dumps(record, indent=2) + "\n").encode())
    return started


def plain_folder(args: argparse.Namespace) -> Path:
    return args.output_dir / "smollm2"


def packed_model(source: Path | None) -> dict[str, str | None] | None:
    """What the model of a pack is: `origin`, and `made` where it is a warm start.

    Returns:
        None where `source` is no model of a pack.

    Raises:
        SystemExit: the parts of the model were not put together.
    """
    if source is None or not (source / ORIGIN_FILE).is_file():
        return None
    apart = [p for p in source.glob("*.part-000") if not p.with_suffix("").exists()]
    if apart:
        raise SystemExit(
            f"--source {source}: {apart[0].with_suffix('').name} is still in parts. Put them "
            f"together, in {source.parent}:\n    {JOIN}"
        )
    return json.loads((source / ORIGIN_FILE).read_text())


def add_tasks(pack: Pack, parts: Sequence[str], data: Path | None = None) -> None:
    for part in parts:
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in word_rows(part, data))
        pack.add(f"tasks/{part}.jsonl", "".join(lines).encode())


def add_recipes(pack: Pack) -> None:
    for name in CODE:
        path = RECIPES / name
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            pack.add(f"recipes/{file.relative_to(RECIPES)}", file.read_bytes())


def add_wheels(pack: Pack, target: gpu_wheels.Target) -> None:
    """Fetches them, unless they are there for the same target and package."""
    root, record = RECIPES.parent, pack.folder / MARK
    asked = gpu_wheels.asked(root, target)
    kept = json.loads(record.read_text())["wheels"]
    if kept and kept["asked"] == asked and all(pack.has(*one) for one in kept["files"].items()):
        pack.sums |= kept["files"]
        return
    print(f"wheels for {target}: pip builds and fetches them", flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        for wheel in gpu_wheels.fetch(root, target, Path(temporary)):
            pack.add_file(f"wheels/{wheel.name}", wheel)
    files = {name: sum_ for name, sum_ in pack.sums.items() if name.startswith("wheels/")}
    replace_json(record, {"wheels": {"asked": asked, "files": files}})


def shell_line(options: str) -> str:
    """Checks the sums, joins the parts, installs and runs; more options may follow."""
    return (
        f"sha256sum --quiet -c {SUMS} && {JOIN}"
        " && python3 -m pip install --no-index --find-links wheels ./wheels/trl_lambda-*.whl"
        " && python3 recipes/benchmarks/language --source model --data tasks --output_dir results"
        f" {options}"
    )


def readme(line: str, target: str, size: str) -> str:
    return f"""# The language benchmark, for a machine with a GPU and without network

{size}. The wheels are for {target}.
The machine brings that Python, PyTorch with CUDA, transformers and `sha256sum`.

In this folder:

```bash
{line}
```

The line checks the sums, puts the parts together, installs, and trains on the first card, as many
models at a time as `--workers` says (`CUDA_VISIBLE_DEVICES` names another card). The table is then
in `results/language.json` and `results/language.csv`; `results/runs.jsonl` has every finished run.
Run the line again after a kill: finished runs are kept, others go on at their last checkpoint.

- The options `{TEN_MINUTES}`
  are meant for ten minutes of a card with 80 GB; nobody has timed them yet. One learning rate is
  not tuned, and the table says so. Without these options, but `--workers`, it is the whole plan.
- Where memory runs out, a smaller `--micro_batch` or fewer `--workers` help; there should be no
  more workers than cores.
"""
