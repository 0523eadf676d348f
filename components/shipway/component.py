"""The house form of a KFP component: works in a subprocess, in Docker, on Kubeflow and on Vertex from one source.

Measured on kfp 2.17: only lightweight components run under every local runner, and only
`install_kfp_package=False` keeps pip from running inside the step.
"""

from collections.abc import Callable
from typing import Any

from kfp import dsl

from shipway import __version__

IMAGES = ("components", "trainer", "deployer", "monitor")


def image_name(image: str, repository: str = "shipway", tag: str = __version__) -> str:
    """Returns the full name of one of Shipway's images, as `shipway/components:0.1.0`."""
    return f"{repository}/{image}:{tag}"


def component(image: str = "components") -> Callable[[Callable[..., Any]], Any]:
    """Returns the decorator for a component that runs in one of Shipway's images.

    The function's body is 2 to 5 lines that import the stage's logic and call it. Its file must not use
    `from __future__ import annotations`, which kfp's decorator cannot read.

    Args:
        image: One of `IMAGES`; compiling replaces it by the repository, tag or digest wanted.
    """

    def decorate(function: Callable[..., Any]) -> Any:
        if not hasattr(dsl, "component"):
            # An image has kfp's runtime only, which runs plain functions: see shipway.platforms.steps.
            return function
        return dsl.component(function, base_image=image_name(image), packages_to_install=[], install_kfp_package=False)

    return decorate
