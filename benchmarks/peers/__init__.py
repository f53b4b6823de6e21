"""One runner for each sampler, in a process and an environment of its own; they share the data and nothing else."""
