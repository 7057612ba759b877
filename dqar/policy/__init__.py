"""The learned reuse policy: its network, specification and files, and the planner of schedules."""
