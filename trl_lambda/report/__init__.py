"""Pictures of credit, from saved records only: which tokens were credited, in one HTML file.

`python -m trl_lambda.report RUN_DIR` from a shell, `write_report` from Python.
"""

from ..credit_log.reading import Run, load_run
from .writing import write_report

__all__ = ["Run", "load_run", "write_report"]
