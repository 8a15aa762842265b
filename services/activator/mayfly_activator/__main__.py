from mayfly_activator.app import app
from mayfly_activator.config import ActivatorConfig
from mayfly_chassis.service import main

if __name__ == "__main__":
    main("activator", app, ActivatorConfig)
