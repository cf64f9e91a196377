"""From run folders to files: the one call behind the command line."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from ..credit_log.reading import load_run
from .page import page

MAX_MB = 8.0


def write_report(
    run_dirs: str | Path | Sequence[str | Path],
    output: str | Path | None = None,
    *,
    png: bool = False,
    max_mb: float = MAX_MB,
) -> list[Path]:
    """Writes the report on one or several runs and returns the files, the page first.

    Args:
        run_dirs: output_dir of a run, or several, laid over each other in the run view.
        output: the page. None: `credit_report.html` in the first run's folder.
        png: also write the three views as figures, `<output>-run.png` and so on.
        max_mb: megabytes (10⁶ bytes) the page may weigh; groups spread over the training are
            shown where not all fit, and the page says so.

    Raises:
        FileNotFoundError: a run has no credit log.
        ModuleNotFoundError: plotly, or matplotlib for `png`, is not installed.
        ValueError: no run, or a log that does not follow the format.
    """
    folders = [run_dirs] if isinstance(run_dirs, str | Path) else list(run_dirs)
    if not folders:
        raise ValueError("report: expected at least one RUN_DIR, got none.")
    runs = [load_run(folder) for folder in folders]
    path = Path(output) if output else Path(folders[0]) / "credit_report.html"
    html, left_out = page(runs, max_bytes=int(max_mb * 1e6))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(html, encoding="utf-8")
    if left_out:
        print(f"report: {left_out}", file=sys.stderr)
    if not png:
        return [path]
    from .figures import write_figures

    return [path, *write_figures(runs, path.with_suffix(""))]
