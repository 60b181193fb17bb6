"""What a fleet of processes needs beside the primitives: effects that take place once, and budgets."""
