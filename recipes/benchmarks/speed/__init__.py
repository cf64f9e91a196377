"""The parts of benchmark_speed.py: kernels, a training step, scaling, what they share."""
