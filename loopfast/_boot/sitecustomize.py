# Python imports a module of this name when it starts, from the first entry of PYTHONPATH that has one; `loopfast run`
# puts this folder there. Any Python below may read this file, so it is written for all of them, Python 2 included:
# where loopfast cannot run, only the user's own sitecustomize is imported.

import os
import sys

_words = os.environ.get("LOOPFAST_RUN", "").split()
if _words:
    if sys.version_info >= (3, 11) and sys.implementation.name == "cpython":
        try:
            import _loopfast_boot  # type: ignore[import-not-found]

            _loopfast_boot.start(_words)
        except Exception as exc:
            sys.stderr.write("loopfast run: " + repr(exc) + "\n")
    elif "pid=" + str(os.getpid()) in _words:
        sys.stderr.write("loopfast run: " + sys.executable + " is no CPython 3.11 or later and runs without loopfast\n")

# The user's own module of this name, which this one hides: found without this folder, and left under its name.
_here = os.path.dirname(os.path.abspath(__file__))
_ours = sys.modules.pop("sitecustomize", None)
_hidden = [(_index, _entry) for _index, _entry in enumerate(sys.path) if os.path.abspath(_entry) == _here]
for _, _entry in _hidden:
    sys.path.remove(_entry)
try:
    import sitecustomize  # type: ignore[import-not-found]  # noqa: F401
except ImportError as exc:
    if getattr(exc, "name", "sitecustomize") != "sitecustomize":
        raise  # theirs, as without us: site reports it and goes on
    if _ours is not None:
        sys.modules["sitecustomize"] = _ours
finally:
    # Programs make PYTHONPATH of sys.path for those they start, and what theirs changed in it stays.
    for _index, _entry in _hidden:
        if _entry not in sys.path:
            sys.path.insert(_index, _entry)
