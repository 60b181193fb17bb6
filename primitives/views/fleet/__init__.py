"""Views of what fleets need: queues, budgets, retention, changes and positions."""
