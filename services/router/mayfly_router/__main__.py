from mayfly_chassis.service import main
from mayfly_router.app import app
from mayfly_router.config import RouterConfig

if __name__ == "__main__":
    main("router", app, RouterConfig)
