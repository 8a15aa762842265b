"""The scaler's own code against eight hours of 500 real functions: what it costs and what it saves.

`trace` reads the calls (`derive` made the file), `pool` plays one function's router and worker on them, second by
second and call by call, with the router's activation and gaps and the scaler's windows and minimum, and `run` compares
that with keeping every instance for a fixed time.
"""
