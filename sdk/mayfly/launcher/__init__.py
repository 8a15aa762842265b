"""`mayfly up`: a whole platform on this machine, as supervised child processes."""
