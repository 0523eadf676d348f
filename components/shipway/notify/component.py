"""KFP interface of the notify step."""

from kfp.dsl import Artifact, Input

from shipway.component import component


@component()
def notify(findings: Input[Artifact], name: str, notify: str) -> None:
    """Tells people, and the trigger service, what a step found: a check of production, or the gates.

    Args:
        findings: A MonitorFindings document, or a Blessing that says no.
        name: The model's name.
        notify: The spec's section notify, as JSON.
    """
    from shipway.lineage.steps import step
    from shipway.notify.checks import tell_findings

    with step("notify") as record:
        told = tell_findings(findings.path, name, notify)
        record.show(kind=told.kind, severity=told.severity, text=told.text)
