"""What fleets do in a simulated history: what is drawn, what clients do, and how it is judged."""
