"""Collection: the driver, its workers, the columns that they write."""
