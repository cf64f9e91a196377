"""The parts of quickstart.py: the task, how it is measured, and what is shown."""
