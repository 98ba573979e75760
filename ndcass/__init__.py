"""ndcass keeps 3-D and 4-D brain image volumes as Morton-keyed cuboids and serves boxes of them."""
