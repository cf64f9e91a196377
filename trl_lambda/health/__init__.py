"""Warnings of trainings that go wrong in silence.

- `no_learning`: no rewards, no variance, no completion that ends.
- `sampling_mismatch`: vLLM samples from other weights than the trainer's.
- `dropout`: dropout where credit needs a policy without it.
"""
