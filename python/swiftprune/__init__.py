"""swiftprune makes a large language model smaller and faster, on the machine you have.

    import swiftprune
    swiftprune.prune("HuggingFaceTB/SmolLM2-135M", "pruned", sparsity=0.5, calibration="my_text.txt")
    swiftprune.evaluate("pruned", text="other_text.txt")["perplexity"]
    model = swiftprune.load("pruned")
    print(model.generate("The sun is", max_tokens=40))

Every command of the program is a function with the same options, defaults and results (those of --json). A model is
a folder or the id of one that Hugging Face's tools have downloaded; nothing is downloaded here.
"""

from .openmp import load_openmp as _load_openmp
from .waiting import bound_spinning as _bound_spinning

_bound_spinning()  # before OpenMP is loaded, and that before the library
_load_openmp()

from ._swiftprune import version as _version, version_text
from .commands import (bench, compare, doctor, evaluate, export, families, import_gguf, inspect, methods, pack, pilot, prune,
                       quantize, recover, shrink, tune, unpack, verify)
from .errors import DeviceError, Error, GateError, InputError, InternalError, Note, UsageError
from .model import Generation, Model, Stream, load
from .results import Result
from .transformers_bridge import to_transformers

__version__ = _version()

__all__ = [
    "DeviceError", "Error", "GateError", "Generation", "InputError", "InternalError", "Model", "Note", "Result", "Stream",
    "UsageError", "__version__", "bench", "compare", "doctor", "evaluate", "export", "families", "import_gguf", "inspect", "load",
    "methods", "pack", "pilot", "prune", "quantize", "recover", "shrink", "to_transformers", "tune", "unpack", "verify", "version_text",
]
