"""``python -m mayfly_gateway``"""

from mayfly_chassis.service import main
from mayfly_gateway.app import app
from mayfly_gateway.config import GatewayConfig

if __name__ == "__main__":
    main("gateway", app, GatewayConfig)
