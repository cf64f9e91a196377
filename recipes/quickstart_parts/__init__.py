"""The parts of quickstart.py: the task, its settings, how it is measured, and what is shown.

benchmarks/learning uses the small model and the callback as well.
"""
