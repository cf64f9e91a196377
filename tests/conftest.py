import torch
from hypothesis import settings

torch.set_num_threads(1)  # tiny tensors: threads only add noise
settings.register_profile("default", deadline=None, max_examples=60)
settings.load_profile("default")
