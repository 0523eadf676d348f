"""KFP interface of the report step, the pipeline's exit handler."""

from kfp import dsl
from kfp.dsl import HTML, Output

from shipway.component import component


@component()
def report(status: dsl.PipelineTaskFinalStatus, name: str, page: Output[HTML], notify: str = "") -> None:
    """Reports how a run ended, whatever happened in it, and tells of one that was rejected or failed.

    Args:
        status: How the run ended, filled in by the platform.
        name: The model's name.
        page: The run's page: steps, gates, metrics and links to the reports.
        notify: The spec's section notify, as JSON; empty to tell nobody.
    """
    from shipway.lineage.steps import step
    from shipway.report.run import report_run

    with step("report", page.path):
        run = status.pipeline_job_resource_name or ""
        report_run(name, status.state, status.error_message or "", page.path, notify, run)
