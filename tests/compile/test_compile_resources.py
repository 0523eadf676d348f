"""What the spec asks of a platform, in the compiled pipeline's two documents."""

import copy
import json
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml

from shipway.errors import InputError
from shipway.lineage.project import PROJECT_VARIABLE
from shipway.platforms.compile import compile_pipeline
from shipway.platforms.local import step_names
from shipway.platforms.machines import VERTEX_ACCELERATORS
from shipway.platforms.pipelines import PIPELINES, Target
from shipway.spec import Step, load_spec
from shipway.spec.resources import EFFECTS, AcceleratorType

EXAMPLES = Path(__file__).parents[2] / "pipelines" / "examples"
NAMES = sorted(path.parent.name for path in EXAMPLES.glob("*/shipway.yaml"))
# One value for each setting that only Kubernetes knows; none of them may show in the first document.
KUBERNETES_ONLY = [
    "resources.train.node_selector={cloud.google.com/gke-accelerator: nvidia-tesla-t4}",
    "resources.train.tolerations=[{key: nvidia.com/gpu, effect: NoSchedule}, {operator: Exists}]",
    "resources.train.shared_memory=8Gi",
    "resources.default.timeout=6h",
    "kubeflow.config_map=shipway",
    "kubeflow.secrets=[{variable: DATA_TOKEN, secret: data, key: token, stages: [ingest]}]",
    "kubeflow.volume={claim: shipway-state}",
    "kubeflow.image_pull_secrets=[registry]",
    "kubeflow.security_context={run_as_user: 1000}",
    "kubeflow.deadline=12h",
    "kubeflow.ttl=7d",
]
# Those of the training pipeline.
_ELSEWHERE = ("candidate", "approval", "rollout", "rollback", "resolve", "screen", "predict", "gather")
STEPS = [step for step in get_args(Step) if step not in (*_ELSEWHERE, "observe", "monitor", "notify")]
# These belong to the run or to the API's address, and to neither document.
OF_THE_RUN = ["kubeflow.service_account=runner", "kubeflow.namespace=team", "kubeflow.experiment=birds"]


@pytest.fixture(params=NAMES)
def example(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Path:
    project = EXAMPLES / request.param
    monkeypatch.setenv(PROJECT_VARIABLE, str(project))
    return project / "shipway.yaml"


@pytest.fixture
def penguins(monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(PROJECT_VARIABLE, str(EXAMPLES / "penguins"))
    return EXAMPLES / "penguins" / "shipway.yaml"


def compiled(spec: Path, folder: Path, *settings: str, target: Target = "kubeflow", fresh: bool = False) -> list[Any]:
    path = folder / "compiled.yaml"
    compile_pipeline("training", load_spec(spec, settings), path, target=target, fresh_data=fresh)
    return list(yaml.safe_load_all(path.read_text()))


def tasks(document: dict[str, Any]) -> dict[str, Any]:
    found = dict(document["root"]["dag"]["tasks"])
    for component in document["components"].values():
        found |= component.get("dag", {}).get("tasks", {})
    return {name: task for name, task in found.items() if name in get_args(Step)}


def container(document: dict[str, Any], step: str) -> dict[str, Any]:
    return document["deploymentSpec"]["executors"][f"exec-{step}"]["container"]


def on_kubernetes(documents: list[Any], step: str) -> dict[str, Any]:
    return documents[1]["platforms"]["kubernetes"]["deploymentSpec"]["executors"].get(f"exec-{step}", {})


@pytest.mark.parametrize("name", PIPELINES)
def test_the_first_document_is_the_same_with_and_without_the_second(name: str, example: Path, tmp_path: Path) -> None:
    texts = []
    for index, settings in enumerate(([], [*KUBERNETES_ONLY, *OF_THE_RUN])):
        path = tmp_path / f"{index}.yaml"
        compile_pipeline(name, load_spec(example, settings), path)
        texts.append(path.read_text().split("\n---\n"))
    assert [len(text) for text in texts] == [1, 2]
    assert texts[0][0].strip() == texts[1][0].strip()


@pytest.mark.parametrize("name", PIPELINES)
def test_json_is_a_guard_against_a_second_document(name: str, example: Path, tmp_path: Path) -> None:
    path = tmp_path / "compiled.json"
    compile_pipeline(name, load_spec(example, [*OF_THE_RUN, "resources.train.cpu=2"]), path)
    assert json.loads(path.read_text())["pipelineInfo"]["name"].endswith(f"-{name}")
    # The others have no train step, and a deadline is for trainings.
    of_training = ("resources.train.", "kubeflow.secrets", "kubeflow.deadline")
    for setting in KUBERNETES_ONLY:
        if name != "training" and setting.startswith(of_training):
            continue
        with pytest.raises(InputError, match="JSON holds one document"):
            compile_pipeline(name, load_spec(example, [setting]), path)


@pytest.mark.parametrize("target", ["local", "vertex"])
def test_other_targets_never_have_a_second_document(target: Target, penguins: Path, tmp_path: Path) -> None:
    assert len(compiled(penguins, tmp_path, *KUBERNETES_ONLY, "resources.train.spot=true", target=target)) == 1


def test_a_file_of_another_kind_is_refused(penguins: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"expected a file that ends in \.yaml, \.yml, \.json"):
        compile_pipeline("training", load_spec(penguins), tmp_path / "pipeline.txt")


def test_kfp_reads_both_documents_back(penguins: Path, tmp_path: Path) -> None:
    from kfp import components

    compiled(penguins, tmp_path, *KUBERNETES_ONLY, "resources.train.spot=true")
    loaded = components.load_component_from_file(str(tmp_path / "compiled.yaml"))
    assert set(loaded.platform_spec.platforms) == {"kubernetes"}


def test_requests_are_limits_on_kubeflow(penguins: Path, tmp_path: Path) -> None:
    settings = ["resources.default={cpu: 500m, memory: 2Gi}", "resources.train={cpu: 4, accelerator: {type: A100}}"]
    documents = compiled(penguins, tmp_path, *settings)
    assert len(documents) == 1
    for step in STEPS:
        found = container(documents[0], step)["resources"]
        cpu = "4" if step == "train" else "500m"
        assert (found["resourceCpuRequest"], found["resourceCpuLimit"]) == (cpu, cpu)
        assert (found["resourceMemoryRequest"], found["resourceMemoryLimit"]) == ("2Gi", "2Gi")
        assert ("accelerator" in found) == (step == "train")
    gpu = container(documents[0], "train")["resources"]["accelerator"]
    assert (gpu["resourceType"], gpu["resourceCount"]) == ("nvidia.com/gpu", "1")


def test_only_effects_that_can_be_done_again_are_retried(penguins: Path, tmp_path: Path) -> None:
    for target in ("kubeflow", "vertex"):
        found = tasks(compiled(penguins, tmp_path, target=target)[0])
        retried = {name: task["retryPolicy"] for name, task in found.items() if "retryPolicy" in task}
        assert set(retried) == {"champion", "register", "deploy", "notify"}
        assert all(policy["maxRetryCount"] == 3 for policy in retried.values())
        assert all(policy["backoffDuration"] == "10s" and policy["backoffFactor"] == 2 for policy in retried.values())
        off = compiled(penguins, tmp_path, f"{target}.retries=0", target=target)
        assert not any("retryPolicy" in task for task in tasks(off[0]).values())
    local = compiled(penguins, tmp_path, target="local")
    assert not any("retryPolicy" in task for task in tasks(local[0]).values())


def test_the_spec_knows_which_steps_have_effects(penguins: Path, tmp_path: Path) -> None:
    found: dict[str, Any] = {}
    for name in PIPELINES:
        compile_pipeline(name, load_spec(penguins), tmp_path / "one.yaml")
        found |= tasks(yaml.safe_load((tmp_path / "one.yaml").read_text()))
    assert set(found) == set(get_args(Step))
    assert {name for name, task in found.items() if not task["cachingOptions"].get("enableCache")} == set(EFFECTS)


def test_spot_steps_run_again_on_any_clouds_spot_nodes(penguins: Path, tmp_path: Path) -> None:
    plain = compiled(penguins, tmp_path)
    documents = compiled(penguins, tmp_path, "resources.train.spot=true", "kubeflow.retries=5")
    assert tasks(documents[0])["train"].pop("retryPolicy")["maxRetryCount"] == 5
    # Spot's retries are all that it changes in the first document.
    wanted = copy.deepcopy(plain[0])
    for document in (wanted, documents[0]):
        for task in tasks(document).values():
            task.pop("retryPolicy", None)
    assert documents[0] == wanted
    train = on_kubernetes(documents, "train")
    labels = {term["matchExpressions"][0]["key"] for term in train["nodeAffinity"]}
    assert {"cloud.google.com/gke-spot", "karpenter.sh/capacity-type"} <= labels
    assert all("weight" not in term and len(term["matchExpressions"]) == 1 for term in train["nodeAffinity"])
    assert {entry["key"] for entry in train["tolerations"]} == labels
    assert not on_kubernetes(documents, "register")


def test_the_second_document_says_what_the_spec_does(penguins: Path, tmp_path: Path) -> None:
    documents = compiled(penguins, tmp_path, *KUBERNETES_ONLY)
    train, ingest = on_kubernetes(documents, "train"), on_kubernetes(documents, "ingest")
    assert train["nodeSelector"]["labels"] == {"cloud.google.com/gke-accelerator": "nvidia-tesla-t4"}
    assert train["tolerations"] == [
        {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"},
        {"operator": "Exists"},
    ]
    (memory,) = train["emptyDirMounts"]
    assert memory["mountPath"] == "/dev/shm"
    assert (memory["medium"], memory["sizeLimit"]) == ("Memory", "8Gi")
    assert "nodeSelector" not in ingest
    assert [entry["secretName"] for entry in ingest["secretAsEnv"]] == ["data"]
    assert ingest["secretAsEnv"][0]["keyToEnv"] == [{"secretKey": "token", "envVar": "DATA_TOKEN"}]
    assert "secretAsEnv" not in train
    for step in STEPS:
        found = on_kubernetes(documents, step)
        assert found["activeDeadlineSeconds"] == str(6 * 3600)
        assert [(mount["constant"], mount["mountPath"]) for mount in found["pvcMount"]] == [
            ("shipway-state", "/var/shipway")
        ]
        keys = {key["envVar"]: entry["optional"] for entry in found["configMapAsEnv"] for key in entry["keyToEnv"]}
        assert keys == {"MLFLOW_TRACKING_URI": False, "MLFLOW_S3_ENDPOINT_URL": True, "AWS_ENDPOINT_URL": True}
        assert found["imagePullSecret"][0]["secretName"] == "registry"
        assert found["securityContext"] == {"runAsNonRoot": True, "runAsUser": "1000"}
    settings = documents[1]["platforms"]["kubernetes"]["pipelineConfig"]
    assert sorted(settings.values()) == [12 * 3600, 7 * 86400]


def test_every_kind_of_accelerator_has_a_name_that_vertex_knows() -> None:
    from google.cloud.aiplatform_v1.types import AcceleratorType as Known

    assert set(VERTEX_ACCELERATORS) == set(get_args(AcceleratorType))
    assert set(VERTEX_ACCELERATORS.values()) <= set(Known.__members__)


@pytest.mark.parametrize(
    ("settings", "limits"),
    [
        # The usual machine where nothing is said, a named one, and the spec's own limits.
        ({"accelerator": {"type": "T4"}}, ("8", "30G", "NVIDIA_TESLA_T4", "1")),
        ({"accelerator": {"type": "L4", "count": 2}}, ("24", "96G", "NVIDIA_L4", "2")),
        ({"accelerator": {"type": "A100-80GB", "count": 2}}, ("24", "340G", "NVIDIA_A100_80GB", "2")),
        ({"accelerator": {"type": "H100", "count": 8}}, ("96", "624G", "NVIDIA_H100_80GB", "8")),
        ({"accelerator": {"type": "A100", "count": 16}}, ("96", "624G", "NVIDIA_TESLA_A100", "16")),
        (
            {"accelerator": {"type": "T4"}, "machine_type": "n1-highmem-16", "cpu": 4},
            ("16", "104G", "NVIDIA_TESLA_T4", "1"),
        ),
        ({"accelerator": {"type": "T4"}, "cpu": 4}, ("4", None, "NVIDIA_TESLA_T4", "1")),
    ],
)
def test_vertex_gets_limits_that_lead_to_the_machine(
    settings: dict, limits: tuple, penguins: Path, tmp_path: Path
) -> None:
    (document,) = compiled(penguins, tmp_path, f"resources.train={json.dumps(settings)}", target="vertex")
    found = container(document, "train")["resources"]
    assert not [name for name in found if "Request" in name]
    gpu = found["accelerator"]
    assert (found["resourceCpuLimit"], found.get("resourceMemoryLimit"), gpu["type"], gpu["count"]) == limits
    assert "resources" not in container(document, "gate")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"accelerator": {"type": "T4", "count": 3}}, "machines with 1, 2 or 4 T4, found 3"),
        ({"accelerator": {"type": "A100"}, "machine_type": "n1-standard-8"}, "the usual one is a2-highgpu-1g"),
        ({"cpu": 128}, "resources.train.cpu: Vertex AI takes at most 96, found 128"),
        ({"memory": "1Ti"}, "resources.train.memory: Vertex AI takes at most 624G, found 1Ti"),
    ],
)
def test_what_vertex_has_no_machine_for_is_refused(settings: dict, said: str, penguins: Path, tmp_path: Path) -> None:
    section = f"resources.train={json.dumps(settings)}"
    assert compiled(penguins, tmp_path, section)
    with pytest.raises(InputError, match=said):
        compiled(penguins, tmp_path, section, target="vertex")


def test_variables_are_vertexs_only(penguins: Path, tmp_path: Path) -> None:
    settings = "vertex.variables={MLFLOW_TRACKING_URI: https://mlflow.example}"
    for target in ("local", "kubeflow"):
        assert "mlflow.example" not in json.dumps(compiled(penguins, tmp_path, settings, target=target))
    (document,) = compiled(penguins, tmp_path, settings, target="vertex")
    for step in STEPS:
        variables = {entry["name"]: entry["value"] for entry in container(document, step)["env"]}
        assert variables["MLFLOW_TRACKING_URI"] == "https://mlflow.example"


def test_a_stage_may_take_another_image(penguins: Path, tmp_path: Path) -> None:
    (document,) = compiled(penguins, tmp_path, "resources.evaluate.image=trainer", "resources.train.image=components")
    images = {step: container(document, step)["image"].split("/")[-1].split(":")[0] for step in STEPS}
    assert images.pop("evaluate") == "trainer"
    assert {step for step, image in images.items() if image == "deployer"} == {"deploy", "smoke"}
    assert set(images.values()) == {"components", "deployer"}


def test_fresh_data_are_never_taken_from_the_cache(penguins: Path, tmp_path: Path) -> None:
    cached, fresh = (tasks(compiled(penguins, tmp_path, fresh=value)[0]) for value in (False, True))
    changed = {name for name in cached if cached[name]["cachingOptions"] != fresh[name]["cachingOptions"]}
    assert changed == {"ingest"}
    assert not fresh["ingest"]["cachingOptions"].get("enableCache")


def test_a_model_is_staged_only_where_there_is_an_endpoint(penguins: Path, tmp_path: Path) -> None:
    (document,) = compiled(penguins, tmp_path)
    assert document["root"]["inputDefinitions"]["parameters"]["endpoint"]["defaultValue"] == ""
    holders = [component["dag"]["tasks"] for component in document["components"].values() if "dag" in component]
    (staging,) = [held for held in holders if "deploy" in held]
    assert set(staging) == {"deploy", "smoke"}
    (guard,) = [task for held in holders for task in held.values() if task["taskInfo"]["name"] == "staging"]
    assert "endpoint'] != ''" in guard["triggerPolicy"]["condition"]
    names = step_names(document)
    assert names.index("register") < names.index("deploy") < names.index("smoke")


def test_what_one_compile_asks_for_does_not_reach_the_next(penguins: Path, tmp_path: Path) -> None:
    before = compiled(penguins, tmp_path)
    compiled(penguins, tmp_path, *KUBERNETES_ONLY, "resources.train.spot=true", "resources.default.cpu=2")
    assert compiled(penguins, tmp_path) == before
