"""Which provider the configuration asks for."""

from mayfly_chassis.bus import Bus
from mayfly_scaler.config import ScalerConfig
from mayfly_scaler.nodes.providers.local import LocalNodes
from mayfly_scaler.nodes.providers.provider import Provider, ProviderError


def choose(config: ScalerConfig, bus: Bus) -> Provider | None:
    """None: nodes are added and taken away by hand. Raises `ProviderError` when what it needs is not there.

    Clients of engines and clusters are imported only where they are used: they are large, and need not be installed.
    """
    match config.provider:
        case "none":
            return None
        case "local":
            return LocalNodes(bus)
    try:
        if config.provider == "docker":
            from mayfly_scaler.nodes.providers.docker import DockerNodes

            return DockerNodes(config)
        from mayfly_scaler.nodes.providers.kubernetes import KubernetesNodes

        return KubernetesNodes(config.kubernetes_namespace, config.kubernetes_stateful_set)
    except ImportError as error:
        raise ProviderError(
            f"MAYFLY_SCALER_PROVIDER={config.provider} needs {error.name}, which is not installed: "
            f"pip install 'mayfly[{config.provider}]'"
        ) from error
