"""The parts of compare.py: tasks, methods, runs that survive a kill, estimators, table, figure."""
