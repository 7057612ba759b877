"""The learned policy: its network, its specification and files, the planner of schedules."""
