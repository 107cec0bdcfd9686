"""valuegrad: which checkpoint reinforcement learning will improve most, by how much, and why.

The public names stand in ``__init__.pyi``. Each is imported when it is first used, so that the
command line answers without loading torch.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
