"""The coordinator as a process: pipes, control socket, maintenance."""
