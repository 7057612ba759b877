"""Report of an evaluation: the decision which schedule to ship, and a web page that explains it."""
