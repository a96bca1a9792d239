"""Lists for a file of histories: in blocks that a second call goes on from, on one machine or a Ray cluster."""
