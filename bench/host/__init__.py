"""The machine under the benchmark: what it is, endless loops beside a trial, signals, a directory that is removed."""
