"""For every test: linear algebra in one thread.

The ear's matrices are small. Threads that wait for each other in a spin treble the work, and take the
processors from the PBX while calls stand. It must be said before numpy is imported.
"""

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
