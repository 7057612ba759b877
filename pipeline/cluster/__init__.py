"""Ray: actor pool, work queue, capacity and hardware of a cluster. No other package imports ray."""
