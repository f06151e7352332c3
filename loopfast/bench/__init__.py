"""The benchmark command, ``loopfast-bench``: needs the extra ``bench``.

Its modules are kept in the folder bench/ at the top of the source tree. A wheel carries them beside this file; in a
checkout this package looks for them there.
"""

from pathlib import Path

if not Path(__file__).with_name("__main__.py").exists():
    __path__.append(str(Path(__file__).resolve().parents[2] / "bench"))
