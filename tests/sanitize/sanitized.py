"""What the sanitizers' builds share: a copy of the sources, so that the usual build stays."""

from __future__ import annotations

import filecmp
import shutil
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
AREA = ROOT / "build" / "sanitize"

# What of the checkout the build and the tests need. Nothing that was built: another build would be used by mistake.
SOURCES = "bench docs loopfast tests vendor .github".split()
SOURCES += (
    "CHANGELOG.md CONTRIBUTING.md LICENSE MANIFEST.in Makefile README.md SECURITY.md pyproject.toml setup.py".split()
)
BUILT = {".so", ".dylib", ".pyd", ".dll", ".pyc"}


def mirror(source: Path, target: Path) -> set[Path]:
    """Copy what differs from `source` to `target`, with time stamps; return the files that belong there."""
    if source.is_file():
        if not target.exists() or not filecmp.cmp(source, target):
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target)
        return {target}
    kept: set[Path] = set()
    for path in sorted(source.iterdir()):
        if path.name in ("__pycache__", "_lib") or path.suffix in BUILT:
            continue
        kept |= mirror(path, target / path.name)
    return kept


def copy_sources(tree: Path) -> None:
    """Bring `tree` to the state of the checkout; what the last build made there stays."""
    kept = set().union(*(mirror(ROOT / name, tree / name) for name in SOURCES if (ROOT / name).exists()))
    for name in ("loopfast", "tests"):
        for path in (tree / name).rglob("*"):
            if path.is_file() and path not in kept and path.suffix not in BUILT and "_lib" not in path.parts:
                path.unlink()


def joined(options: dict[str, str], logs: Path, name: str) -> str:
    return ":".join(f"{key}={value}" for key, value in {**options, "log_path": str(logs / name)}.items())
