"""What goes through pipes and the control socket: frames, requests, answers."""
