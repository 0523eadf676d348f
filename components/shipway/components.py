"""Every KFP component that Shipway offers.

from shipway import components

rows = components.ingest(data='{"section": {"uri": "s3://bucket/flights/*.parquet", "label": "late"}, "code": ""}')
"""

from shipway.deploy.component import deploy
from shipway.evaluate.component import evaluate
from shipway.featurize.component import featurize
from shipway.gate.component import gate
from shipway.ingest.component import ingest
from shipway.monitor.component import monitor, observe
from shipway.notify.component import notify
from shipway.predict.component import gather, predict, resolve
from shipway.promote.component import approval, candidate
from shipway.register.component import champion, register
from shipway.report.component import report
from shipway.rollout.component import rollback, rollout
from shipway.smoke.component import smoke
from shipway.split.component import split
from shipway.train.component import train
from shipway.validate.component import admit, screen, validate

__all__ = [
    "admit",
    "approval",
    "candidate",
    "champion",
    "deploy",
    "evaluate",
    "featurize",
    "gate",
    "gather",
    "ingest",
    "monitor",
    "notify",
    "observe",
    "predict",
    "register",
    "report",
    "resolve",
    "rollback",
    "rollout",
    "screen",
    "smoke",
    "split",
    "train",
    "validate",
]
