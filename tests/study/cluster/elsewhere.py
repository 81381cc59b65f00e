"""The launcher `elsewhere` of `docs/extend/cluster-launcher.md`, as a package of a stranger beside bhsearch."""

from __future__ import annotations

import os
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
_PAGE = ROOT / "docs" / "extend" / "cluster-launcher.md"


def install(folder: Path) -> str:
    """Write the example of the page as a distribution, and return the `PYTHONPATH` on which it is found."""
    text = _PAGE.read_text(encoding="utf-8")
    (code,) = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    (points,) = re.findall(r"^```toml\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    package = folder / "my_package"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "elsewhere.py").write_text(code, encoding="utf-8")
    info = folder / "my_package-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-package\nVersion: 1.0\n")
    group = points.replace('project.entry-points."bhsearch.launchers"', "bhsearch.launchers").replace('"', "")
    (info / "entry_points.txt").write_text(group)
    return os.pathsep.join([str(folder), str(ROOT)])
