"""The messages between clients and coordinator: frames, handshake, requests, answers, errors."""
