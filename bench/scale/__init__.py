"""What many functions and many nodes cost: services alone with a nats-server, and nodes that are only simulated.

`stage` starts the processes, `catalogue` publishes functions as the registry does, `nodes` and `routers` are processes
that play any number of worker nodes and of routers. `router`, `reports` and `metrics` measure on them; `burst` on a
whole platform.
"""
