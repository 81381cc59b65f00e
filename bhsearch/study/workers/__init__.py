"""Workers, which are processes that run trials, and the pool that starts and supervises them."""
