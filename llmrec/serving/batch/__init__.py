"""Lists for a file of histories, and embeddings of items: in parts that a second call goes on from; over Ray, too."""
