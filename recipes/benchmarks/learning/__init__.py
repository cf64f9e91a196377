"""Which credit learns faster: tasks, methods, runs that survive a kill, estimators, tables."""
