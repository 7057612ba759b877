"""Search for schedules by their measured final error, within a number of model evaluations."""
