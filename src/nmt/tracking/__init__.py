"""MLflow as a view of the files: what a stage wrote is published, each part once; the files stay the truth.

The only package that imports mlflow, and only inside functions: the import takes seconds, and a machine without MLflow
runs every stage. A stage's own process never does: another one sends for it, so nothing here fails or delays a stage,
whatever the tracking server does. How runs are found, named and filled is told in
docs/decisions/0003-identity-and-tracking.md.
"""

from nmt.tracking.links import known_results, link, origin
from nmt.tracking.model import download_bundle
from nmt.tracking.publish import publish_all
from nmt.tracking.stage import LiveCurves, live_training, publish_comparison, publish_model

__all__ = [
    "LiveCurves",
    "download_bundle",
    "known_results",
    "link",
    "live_training",
    "origin",
    "publish_all",
    "publish_comparison",
    "publish_model",
]
