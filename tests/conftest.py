"""For every test: linear algebra in one thread, no garbage looked for among what stays, the same examples.

The ear's matrices are small. Threads that wait for each other in a spin treble the work, and take the
processors from the PBX while calls stand. It must be said before numpy is imported.

Property tests try the same examples each time: a run judges a change, not its luck. `make soak` tries
others (`HYPOTHESIS_PROFILE=explore`); what it finds becomes an `@example`.
"""

import gc
import os

from hypothesis import settings

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

settings.register_profile("steady", derandomize=True)
settings.register_profile("explore", print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "steady"))


def pytest_collection_finish() -> None:
    """Some thousand tests are a large heap: a look through all of it takes a fifth of a second."""
    gc.collect()
    gc.freeze()
