"""How keys are made of bytes, for the rules and for what stands above them."""
