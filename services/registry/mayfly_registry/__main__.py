from mayfly_chassis.service import main
from mayfly_registry.app import app
from mayfly_registry.config import RegistryConfig

if __name__ == "__main__":
    main("registry", app, RegistryConfig)
