"""For every test: linear algebra in one thread, and no garbage looked for among what stays.

The ear's matrices are small. Threads that wait for each other in a spin treble the work, and take the
processors from the PBX while calls stand. It must be said before numpy is imported.
"""

import gc
import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


def pytest_collection_finish() -> None:
    """Some thousand tests are a large heap: a look through all of it takes a fifth of a second."""
    gc.collect()
    gc.freeze()
