"""How fast the credit is: kernels, a training step, scaling, and what they share."""
