"""The `candidate` and `approval` components."""

from kfp.dsl import Artifact, Input, Output

from shipway.component import component


@component()
def candidate(
    release: Output[Artifact],
    stable: Output[Artifact],
    name: str,
    version: str = "",
    override: str = "",
    who: str = "",
) -> str:
    """Finds the version to promote and the one to go back to, and returns the former.

    Args:
        release: The version to promote, with its blessing.
        stable: The version that has the traffic, or had it before; an empty file when there is none.
        name: The registered model's name.
        version: A version's number or an alias; empty for `staging-verified`, what passed the smoke test last.
        override: Why a version that was rolled back is promoted all the same.
        who: Who overrides.
    """
    from shipway.lineage.steps import step
    from shipway.promote.candidate import candidate as find

    with step("candidate", release.path) as record:
        found = find(name, release.path, stable.path, version, override, who)
        before = found.stable.version if found.stable else ""
        record.show(version=found.release.version, model_digest=found.release.digest, stable=before)
        return found.release.version


@component()
def approval(release: Input[Artifact], rollout: str, notify: str = "") -> str:
    """Makes sure that a version may be promoted, and returns who said so; empty when the spec asks nobody.

    Args:
        release: The version to promote.
        rollout: The spec's section rollout.
        notify: The spec's section notify, as JSON; empty to tell nobody that a yes is wanted.
    """
    from shipway.lineage.steps import step
    from shipway.promote.approval import approval as require

    with step("approval") as record:
        given = require(release.path, rollout, notify)
        who = str(given.approver) if given else ""
        record.show(approved_by=who)
        return who
