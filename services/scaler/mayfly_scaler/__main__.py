from mayfly_chassis.service import main
from mayfly_scaler.app import app
from mayfly_scaler.config import ScalerConfig

if __name__ == "__main__":
    main("scaler", app, ScalerConfig)
