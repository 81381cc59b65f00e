"""Workers: the processes that run trials, and the pool that watches over them."""
