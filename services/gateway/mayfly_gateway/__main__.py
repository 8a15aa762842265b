"""``python -m mayfly_gateway``"""

import resource

from mayfly_chassis.service import main
from mayfly_gateway.app import app
from mayfly_gateway.config import GatewayConfig

if __name__ == "__main__":
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # a connection is a file
    main("gateway", app, GatewayConfig)
