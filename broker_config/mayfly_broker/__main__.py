"""``python -m mayfly_broker files [DIR]`` writes the plain configuration, ``bootstrap`` makes streams and buckets."""

import argparse
import asyncio
import sys
from pathlib import Path

from mayfly_broker import config
from mayfly_broker.bootstrap import BootstrapError, bootstrap
from mayfly_broker.roles import OPERATOR
from mayfly_chassis.bus import Bus
from mayfly_chassis.config import ServiceConfig, load
