"""One commit: validate, decide, apply, group."""
