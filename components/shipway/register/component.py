"""The `champion` and `register` components."""

from kfp.dsl import Artifact, Input, Model, Output

from shipway.component import component


@component()
def champion(name: str) -> str:
    """Returns the registry's version in use as JSON (version, digest, package_uri), or "" when there is none.

    Args:
        name: The registered model's name.
    """
    from shipway.lineage.steps import step
    from shipway.model.registry import champion as look_up

    with step("champion"):
        return look_up(name)


@component()
def register(
    model: Input[Model],
    evaluation: Input[Artifact],
    blessing: Input[Artifact],
    release: Output[Artifact],
    name: str,
    data_version: str,
    spec_digest: str,
) -> str:
    """Registers a blessed model, with its lineage as tags and the alias `staging`, and returns its version.

    Args:
        model: The model package.
        evaluation: What was measured.
        blessing: The gate's verdict on this very model.
        release: The registered version and where the registry keeps its package.
        name: The registered model's name.
        data_version: Content hash of the data that the run took in.
        spec_digest: Digest of the spec.
    """
    from shipway.lineage.documents import Blessing, Evaluation, read_document
    from shipway.lineage.steps import step
    from shipway.register.register import register_model, write_release

    with step("register", release.path) as record:
        documents = read_document(Evaluation, evaluation.path), read_document(Blessing, blessing.path)
        run = str(model.metadata.get("mlflow_run_id", ""))
        done = register_model(model.path, *documents, name, data_version, spec_digest, run)
        return write_release(done, release, record)
