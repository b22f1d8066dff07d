"""Python on Linux as on Windows, as far as processes go: with this folder in PYTHONPATH, every process of the test
suite starts others by spawning them, and knows no other way."""

import multiprocessing
import multiprocessing.context

multiprocessing.set_start_method("spawn")
multiprocessing.context.DefaultContext.get_all_start_methods = lambda self: ["spawn"]
multiprocessing.get_all_start_methods = lambda: ["spawn"]
