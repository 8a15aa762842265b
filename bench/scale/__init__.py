"""What many functions and many nodes cost: services alone with a nats-server, and nodes that are only simulated.

`stage` starts the processes, `catalogue` publishes functions as the registry does, `nodes` is a process that plays any
number of worker nodes. `router` and `reports` measure.
"""
