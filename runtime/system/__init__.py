"""What is asked of the machine: whole files, threads, processes apart, its name."""
