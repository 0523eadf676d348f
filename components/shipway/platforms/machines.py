"""What a step's container gets of a machine, in the words of each platform: CPU, memory, accelerators.

All of this stands in the compiled pipeline's first document. Kubeflow turns it into the container's requests and
limits; Vertex AI picks, from its own table, the machine that fits it most closely, and cannot be told a machine's name.
"""

import re
from dataclasses import dataclass
from typing import Any

from shipway.errors import InputError
from shipway.spec.resources import Accelerator, StageResources, cpu_cores, memory_bytes

KUBEFLOW_ACCELERATOR = "nvidia.com/gpu"
VERTEX_ACCELERATORS = {
    "T4": "NVIDIA_TESLA_T4",
    "L4": "NVIDIA_L4",
    "P100": "NVIDIA_TESLA_P100",
    "V100": "NVIDIA_TESLA_V100",
    "A100": "NVIDIA_TESLA_A100",
    "A100-80GB": "NVIDIA_A100_80GB",
    "H100": "NVIDIA_H100_80GB",
}
# The most that Vertex AI Pipelines takes as a step's limits; larger machines come with their accelerators.
VERTEX_MOST_CORES = 96
VERTEX_MOST_GIGABYTES = 624


@dataclass(frozen=True)
class _Family:
    """The machines that hold one kind of accelerator: the usual one for each count, and the form of every other."""

    usual: dict[int, str]
    others: str = r"(?!)"


_N1 = {1: "n1-standard-8", 2: "n1-standard-16", 4: "n1-standard-32"}
_FAMILIES = {
    "T4": _Family(_N1, r"n1-(standard|highmem|highcpu)-\d+"),
    "P100": _Family(_N1, r"n1-(standard|highmem|highcpu)-\d+"),
    "V100": _Family({**_N1, 8: "n1-standard-64"}, r"n1-(standard|highmem|highcpu)-\d+"),
    "L4": _Family(
        {1: "g2-standard-8", 2: "g2-standard-24", 4: "g2-standard-48", 8: "g2-standard-96"}, r"g2-standard-(4|12|16|32)"
    ),
    "A100": _Family({count: f"a2-highgpu-{count}g" for count in (1, 2, 4, 8)} | {16: "a2-megagpu-16g"}),
    "A100-80GB": _Family({count: f"a2-ultragpu-{count}g" for count in (1, 2, 4, 8)}),
    "H100": _Family({count: f"a3-highgpu-{count}g" for count in (1, 2, 4, 8)}),
}
# Machine -> (cores, GB) for each unit in its name: a core of the first four, a GPU of the others.
_UNITS = {
    "n1-standard": (1, 3.75),
    "n1-highmem": (1, 6.5),
    "n1-highcpu": (1, 0.9),
    "g2-standard": (1, 4),
    "a2-highgpu": (12, 85),
    "a2-ultragpu": (12, 170),
    "a2-megagpu": (6, 85),
    "a3-highgpu": (26, 234),
}


def use_on_kubeflow(task: Any, resources: StageResources) -> None:
    """Sets a step's requests and limits, one the same as the other, so that its node never takes them back."""
    if resources.cpu:
        task.set_cpu_request(resources.cpu).set_cpu_limit(resources.cpu)
    if resources.memory:
        task.set_memory_request(resources.memory).set_memory_limit(resources.memory)
    if resources.accelerator:
        # The kind of GPU is the node pool's: node_selector chooses it.
        task.set_accelerator_type(KUBEFLOW_ACCELERATOR).set_accelerator_limit(resources.accelerator.count)


def use_on_vertex(task: Any, step: str, resources: StageResources) -> None:
    """Sets a step's limits and accelerator so that Vertex AI picks the machine meant.

    A machine type stands for its cores and memory. A step with an accelerator and nothing else gets those of the usual
    machine for it.

    Raises:
        InputError: No machine of Vertex AI is like that.
    """
    cpu, memory = resources.cpu, resources.memory
    if resources.accelerator:
        machine = _machine(step, resources.accelerator, resources.machine_type)
        if resources.machine_type or not (cpu or memory):
            cpu, memory = _limits(machine)
        task.set_accelerator_type(VERTEX_ACCELERATORS[resources.accelerator.type])
        task.set_accelerator_limit(resources.accelerator.count)
    if cpu:
        if cpu_cores(cpu) > VERTEX_MOST_CORES:
            raise InputError(f"resources.{step}.cpu: Vertex AI takes at most {VERTEX_MOST_CORES}, found {cpu}")
        task.set_cpu_limit(cpu)
    if memory:
        if memory_bytes(memory) > VERTEX_MOST_GIGABYTES * 10**9:
            raise InputError(
                f"resources.{step}.memory: Vertex AI takes at most {VERTEX_MOST_GIGABYTES}G, found {memory}"
            )
        task.set_memory_limit(memory)


def _machine(step: str, accelerator: Accelerator, wanted: str | None) -> str:
    family = _FAMILIES[accelerator.type]
    where = f"resources.{step}"
    usual = family.usual.get(accelerator.count)
    if usual is None:
        raise InputError(
            f"{where}.accelerator.count: Vertex AI has machines with {_listed(family.usual)} {accelerator.type}, "
            f"found {accelerator.count}"
        )
    if wanted and wanted != usual and not re.fullmatch(family.others, wanted):
        raise InputError(
            f"{where}.machine_type: no {wanted!r} with {accelerator.count} {accelerator.type} on Vertex AI; "
            f"the usual one is {usual}"
        )
    return wanted or usual


def _limits(machine: str) -> tuple[str, str]:
    """Returns the cores and memory of a machine, as far as Vertex AI takes them."""
    kind, _, size = machine.rpartition("-")
    cores, gigabytes = _UNITS[kind]
    units = int(size.rstrip("g"))
    return str(min(units * cores, VERTEX_MOST_CORES)), f"{int(min(units * gigabytes, VERTEX_MOST_GIGABYTES))}G"


def _listed(counts: dict[int, str]) -> str:
    *most, last = map(str, counts)
    return f"{', '.join(most)} or {last}"
