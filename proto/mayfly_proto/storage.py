"""Names of what Mayfly keeps in JetStream. Their settings are JSON files in ``broker_config``."""

# KV buckets
FUNCTIONS = "functions"  # <name> → FunctionRecord; the moment a version becomes visible
VERSIONS = "versions"  # <name>.<n> → VersionSpec, immutable
NUMBERS = "numbers"  # <name> → the highest version number ever given; outlives the function, so none comes twice
ROUTES = "routes"  # <node>.<version>.<name> → Route; the Route Cache
NODES = "nodes"  # <node> → NodeLease, expires by TTL
ROUTERS = "routers"  # "members" → RouterMembers (compare-and-set); <router> → lease, expires by TTL

ROUTER_MEMBERS_KEY = "members"

# object stores
CODE = "code"  # packages by the sha256 of their bytes
INCOMING = "incoming"  # uploads on their way to the registry, an hour at most

# streams
LOGS = "LOGS"
USAGE = "USAGE"

BUCKETS = (FUNCTIONS, VERSIONS, NUMBERS, ROUTES, NODES, ROUTERS)
OBJECT_STORES = (CODE, INCOMING)
STREAMS = (LOGS, USAGE)


def version_key(function: str, version: int) -> str:
    return f"{function}.{version}"


def route_key(node: str, version: int, function: str) -> str:
    return f"{node}.{version}.{function}"


def parse_route_key(key: str) -> tuple[str, int, str]:
    """``n1.3.billing.charge`` → ``("n1", 3, "billing.charge")``."""
    node, version, function = key.split(".", 2)
    return node, int(version), function
