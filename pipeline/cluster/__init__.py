"""Ray: the actor pool, its work queue, the capacity of a cluster. The only package that imports
ray."""
