"""Render the Helm chart into plain manifests: make manifests."""

from pathlib import Path
from typing import Final

import helm_python
import yaml

DEPLOY: Final = Path(__file__).resolve().parent.parent / "deploy"
CHART: Final = DEPLOY / "helm" / "keyosk"
MANIFESTS: Final = DEPLOY / "kubernetes" / "keyosk.yaml"
_HEAD: Final = """\
# Made by `make manifests` from deploy/helm/keyosk and values.yaml: change those, not this file.
"""


def rendered() -> str:
    """Return the manifests of the chart with the values that stand beside them."""
    values = yaml.safe_load(MANIFESTS.with_name("values.yaml").read_text())
    with helm_python.Chart.load(CHART) as chart:
        files = chart.render(values, name="keyosk", namespace="keyosk")
    texts = [text.strip() for name, text in sorted(files.items()) if name.endswith(".yaml")]
    return _HEAD + "".join(f"---\n{text}\n" for text in texts if text)


if __name__ == "__main__":
    MANIFESTS.write_text(rendered())
