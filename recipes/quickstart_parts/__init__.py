"""The parts of quickstart.py: the task, its settings, how it is measured, and what is shown.

benchmarks/learning uses the task, the small model and the callback as well.
"""
