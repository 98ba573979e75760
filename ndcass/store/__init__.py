"""Where cuboids, objects and the catalog live: the protocols and the engines that keep them."""
